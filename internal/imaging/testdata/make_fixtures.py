#!/usr/bin/python3
"""Writes the images in testdata/images, and the pixels that Pillow 9.4 decodes to testdata/expected.npz.

    python3 make_fixtures.py        # Debian 12: python3-pil 9.4, python3-numpy

Run it in this folder. The output is deterministic for the same versions. Pillow and its libraries
can't write many of the variants that they read (4:4:0 JPEG, interlaced PNG, 16-bit BMP ...), so this
file has small writers for them.
"""

import io
import os
import struct
import warnings
import zlib

import numpy as np
import PIL
from PIL import Image

assert PIL.__version__.startswith("9.4."), "requires Pillow 9.4, not " + PIL.__version__
warnings.simplefilter("ignore")  # Pillow warns about palettes with several alphas
OUT = "images"
files = {}


def test_image(width, height, seed, channels=3):
    """Gradients, edges and noise in strong colors, to detect wrong chroma filters."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    out = np.empty((height, width, channels))
    for c in range(channels):
        fx, fy, phase = rng.uniform(0.05, 0.6), rng.uniform(0.05, 0.6), rng.uniform(0, 6)
        out[:, :, c] = 128 + 90 * np.sin(fx * x + fy * y + phase)
    for _ in range(6):
        x0, y0 = rng.integers(0, width), rng.integers(0, height)
        out[y0 : y0 + 1 + height // 3, x0 : x0 + 1 + width // 3] = rng.integers(0, 256, channels)
    return np.clip(out + rng.normal(0, 12, out.shape), 0, 255).astype(np.uint8)


def save(name, image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **options)
    files[name] = buffer.getvalue()


def rgb(width, height, seed):
    return Image.fromarray(test_image(width, height, seed))


# ---------------------------------------------------------------------------------------- JPEG

ZIGZAG = sorted(range(64), key=lambda i: (i // 8 + i % 8, (i // 8 if (i // 8 + i % 8) % 2 else i % 8)))
QUANT = np.array([4 + i // 4 for i in range(64)])  # in zigzag order
DCT = np.array([[np.sqrt((1 if k == 0 else 2) / 8) * np.cos((2 * n + 1) * k * np.pi / 16) for n in range(8)] for k in range(8)])
# One Huffman table for all: 16 DC symbols of 5 bits, 256 AC symbols of 8 and (the last four) 9 bits.
DC_TABLE = bytes([0, 0, 0, 0, 16] + [0] * 11 + list(range(16)))
AC_TABLE = bytes([0] * 7 + [252, 4] + [0] * 7 + list(range(256)))
DC_CODES = [(i, 5) for i in range(16)]
AC_CODES = [(i, 8) if i < 252 else (2 * 252 + i - 252, 9) for i in range(256)]


class Bits:
    def __init__(self):
        self.value, self.count, self.out = 0, 0, bytearray()

    def put(self, value, count):
        self.value, self.count = self.value << count | value, self.count + count
        while self.count >= 8:
            byte = self.value >> (self.count - 8) & 255
            self.out += b"\xff\x00" if byte == 255 else bytes([byte])
            self.count -= 8
            self.value &= (1 << self.count) - 1

    def number(self, v, codes, run=0):
        size = abs(v).bit_length()
        self.put(*codes[run << 4 | size])
        if size:
            self.put(v if v > 0 else v + (1 << size) - 1, size)

    def flush(self):
        if self.count:
            self.put((1 << (8 - self.count)) - 1, 8 - self.count)


def put_block(bits, coefficients, before):
    bits.number(int(coefficients[0]) - before, DC_CODES)
    run = 0
    for v in coefficients[1:]:
        if v == 0:
            run += 1
            continue
        while run > 15:
            bits.put(*AC_CODES[0xF0])
            run -= 16
        bits.number(int(v), AC_CODES, run)
        run = 0
    if run:
        bits.put(*AC_CODES[0])
    return int(coefficients[0])


def segment(marker, body):
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


JFIF = segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")


def adobe(transform):
    return segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform]))


def put_dc(bits, coefficients, state, band):
    """Writes the DC coefficient of a progressive scan; state is that of the component."""
    first, last, before, shift = band
    value = int(coefficients[0]) >> shift
    if before:
        bits.put(value & 1, 1)
    else:
        bits.number(value - state["before"], DC_CODES)
        state["before"] = value


def put_ac(bits, coefficients, state, band):
    """Writes AC coefficients of a progressive scan, as jcphuff.c in libjpeg does."""
    first, last, before, shift = band
    values = [(abs(int(v)) >> shift) * (1 if v > 0 else -1) for v in coefficients[first : last + 1]]
    fresh = [i for i, v in enumerate(values) if (abs(v) == 1 if before else v != 0)]
    run, corrections = 0, []
    for i, v in enumerate(values):
        if v == 0:
            run += 1
            continue
        while run > 15 and fresh and i <= fresh[-1]:
            end_run(bits, state)
            bits.put(*AC_CODES[0xF0])
            run -= 16
            put_bits(bits, corrections)
        if before and abs(v) > 1:
            corrections.append(abs(v) & 1)
            continue
        end_run(bits, state)
        if before:
            bits.put(*AC_CODES[run << 4 | 1])
            bits.put(int(v > 0), 1)
            put_bits(bits, corrections)
        else:
            bits.number(v, AC_CODES, run)
        run = 0
    if run or corrections:
        state["run"] += 1
        state["corrections"] += corrections


def put_bits(bits, values):
    while values:
        bits.put(values.pop(0), 1)


def end_run(bits, state):
    """Writes the pending blocks without further coefficients."""
    if state["run"]:
        size = state["run"].bit_length() - 1
        bits.put(*AC_CODES[size << 4])
        bits.put(state["run"] - (1 << size), size)
        state["run"] = 0
        put_bits(bits, state["corrections"])


def jpeg(width, height, planes, sampling, markers=JFIF, ids=(1, 2, 3, 4), scans=None, restart=0, sof=0xC0, wide=False, bands=None):
    """planes: full-resolution uint8 arrays; sampling: (h, v) of each; scans: components of each, in one by default;
    bands: (first, last, before, shift) of each scan of a progressive image."""
    hmax, vmax = max(h for h, _ in sampling), max(v for _, v in sampling)
    mcux, mcuy = -(-width // (8 * hmax)), -(-height // (8 * vmax))
    blocks = []
    for plane, (h, v) in zip(planes, sampling):
        full = np.pad(plane.astype(float), ((0, mcuy * 8 * vmax - height), (0, mcux * 8 * hmax - width)), "edge")
        small = full.reshape(mcuy * 8 * v, vmax // v, mcux * 8 * h, hmax // h).mean((1, 3)) - 128
        tiles = small.reshape(mcuy * v, 8, mcux * h, 8).transpose(0, 2, 1, 3)
        coefficients = (DCT @ tiles @ DCT.T).reshape(mcuy * v, mcux * h, 64)[:, :, ZIGZAG]
        blocks.append(np.rint(coefficients / QUANT).astype(int))
    n = len(planes)
    out = b"\xff\xd8" + markers + segment(0xDB, b"\x10" + QUANT.astype(">u2").tobytes() if wide else b"\0" + bytes(QUANT.tolist()))
    frame = b"".join(bytes([ids[c], h << 4 | v, 0]) for c, (h, v) in enumerate(sampling))
    out += segment(sof, struct.pack(">BHHB", 8, height, width, n) + frame)
    out += segment(0xC4, b"\x00" + DC_TABLE) + segment(0xC4, b"\x10" + AC_TABLE)
    if restart:
        out += segment(0xDD, struct.pack(">H", restart))
    for scan, band in zip(scans or [range(n)], bands or [None] * len(scans or [0])):
        first, last, before, shift = band or (0, 63, 0, 0)
        out += segment(0xDA, bytes([len(scan)]) + b"".join(bytes([ids[c], 0]) for c in scan) + bytes([first, last, before << 4 | shift]))
        if len(scan) > 1:
            units = [
                [(c, my * sampling[c][1] + j, mx * sampling[c][0] + i)
                 for c in scan for j in range(sampling[c][1]) for i in range(sampling[c][0])]
                for my in range(mcuy) for mx in range(mcux)
            ]
        else:  # only the blocks that hold pixels
            h, v = sampling[scan[0]]
            units = [
                [(scan[0], j, i)]
                for j in range(-(-(-(-height * v // vmax)) // 8)) for i in range(-(-(-(-width * h // hmax)) // 8))
            ]
        bits, states = Bits(), None
        for number, unit in enumerate(units):
            if restart and number and number % restart == 0:
                end_run(bits, states[scan[0]])
                bits.flush()
                bits.out += bytes([0xFF, 0xD0 + (number // restart - 1) % 8])
                states = None
            states = states or [{"before": 0, "run": 0, "corrections": []} for _ in range(n)]
            for c, j, i in unit:
                if band:
                    (put_dc if band[1] == 0 else put_ac)(bits, blocks[c][j, i], states[c], band)
                else:
                    states[c]["before"] = put_block(bits, blocks[c][j, i], states[c]["before"])
        end_run(bits, states[scan[0]])
        bits.flush()
        out += bytes(bits.out)
    return out + b"\xff\xd9"


def ycc(width, height, seed):
    a = np.asarray(Image.fromarray(test_image(width, height, seed)).convert("YCbCr"))
    return [a[:, :, c] for c in range(3)]


def four(width, height, seed):
    a = test_image(width, height, seed, 4)
    return [a[:, :, c] for c in range(4)]


SAMPLINGS = {"444": (1, 1), "422": (2, 1), "420": (2, 2), "440": (1, 2), "411": (4, 1), "410": (4, 2)}


def make_jpegs():
    seed = 100
    for name, factors in SAMPLINGS.items():
        for w, h in [(32, 32), (45, 37)]:
            seed += 1
            files[f"jpeg-{name}-{w}x{h}.jpg"] = jpeg(w, h, ycc(w, h, seed), [factors, (1, 1), (1, 1)])
    # Planes of one and two columns are not smoothed by libjpeg; those of three are.
    for name in ["422", "420", "440", "411"]:
        for w, h in [(1, 1), (2, 3), (3, 2), (4, 5), (5, 4), (6, 1)]:
            seed += 1
            files[f"jpeg-{name}-{w}x{h}.jpg"] = jpeg(w, h, ycc(w, h, seed), [SAMPLINGS[name], (1, 1), (1, 1)])
    save("jpeg-pillow-420.jpg", rgb(50, 41, 131), format="JPEG", quality=80)
    save("jpeg-pillow-422-optimized.jpg", rgb(41, 50, 132), format="JPEG", quality=60, subsampling=1, optimize=True)
    save("jpeg-pillow-444-q100.jpg", rgb(33, 31, 133), format="JPEG", quality=100, subsampling=0)
    save("jpeg-progressive-420.jpg", rgb(61, 47, 134), format="JPEG", quality=85, progressive=True)
    save("jpeg-progressive-444-32x32.jpg", rgb(32, 32, 135), format="JPEG", quality=85, progressive=True, subsampling=0)
    save("jpeg-progressive-gray.jpg", rgb(40, 44, 136).convert("L"), format="JPEG", quality=85, progressive=True)
    save("jpeg-progressive-cmyk.jpg", Image.fromarray(test_image(35, 36, 137, 4), "CMYK"), format="JPEG", quality=85, progressive=True)
    save("jpeg-gray.jpg", rgb(47, 29, 138).convert("L"), format="JPEG", quality=85)
    save("jpeg-cmyk.jpg", Image.fromarray(test_image(43, 39, 139, 4), "CMYK"), format="JPEG", quality=90)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees, which is not applied
    save("jpeg-exif-rotated.jpg", rgb(48, 24, 140), format="JPEG", quality=90, exif=exif)
    save("jpeg-wide.jpg", rgb(500, 3, 141), format="JPEG", quality=85)
    save("jpeg-tall.jpg", rgb(3, 500, 142), format="JPEG", quality=85)
    save("jpeg-black.jpg", Image.new("RGB", (64, 64)), format="JPEG")
    save("jpeg-saturated-noise.jpg", Image.fromarray(np.random.default_rng(7).choice([0, 255], (40, 40, 3)).astype(np.uint8)), format="JPEG", quality=30)
    # So coarse that many samples come out far below 0 and above 255.
    save("jpeg-saturated-noise-q1.jpg", Image.fromarray(np.random.default_rng(8).choice([0, 255], (40, 40, 3)).astype(np.uint8)), format="JPEG", quality=1, subsampling=0)

    w, h = 39, 35
    gray = ycc(w, h, 151)[:1]
    files["jpeg-gray-sampling-2x2.jpg"] = jpeg(w, h, gray, [(2, 2)])
    colors = [test_image(w, h, 152)[:, :, c] for c in range(3)]
    same = [(1, 1)] * 3
    files["jpeg-rgb-adobe-0.jpg"] = jpeg(w, h, colors, same, adobe(0))
    files["jpeg-rgb-by-ids.jpg"] = jpeg(w, h, colors, same, b"", b"RGB")
    files["jpeg-rgb-adobe-0-420.jpg"] = jpeg(w, h, colors, [(2, 2), (1, 1), (1, 1)], adobe(0))
    y = ycc(w, h, 153)
    files["jpeg-ycc-adobe-1.jpg"] = jpeg(w, h, y, same, adobe(1))
    files["jpeg-ycc-no-marker.jpg"] = jpeg(w, h, y, same, b"")
    files["jpeg-ycc-no-marker-ids-0.jpg"] = jpeg(w, h, y, same, b"", (0, 1, 2))
    files["jpeg-jfif-and-adobe-0.jpg"] = jpeg(w, h, y, same, JFIF + adobe(0))
    files["jpeg-restart.jpg"] = jpeg(w, h, y, [(2, 2), (1, 1), (1, 1)], restart=2)
    separate, half = [[0], [1], [2]], [(2, 2), (1, 1), (1, 1)]
    files["jpeg-separate-scans.jpg"] = jpeg(w, h, y, half, scans=separate)
    files["jpeg-separate-scans-restart.jpg"] = jpeg(w, h, y, same, scans=separate, restart=3)
    files["jpeg-separate-scans-restart-420.jpg"] = jpeg(w, h, y, half, scans=separate, restart=2)
    files["jpeg-separate-scans-factors-4-2.jpg"] = jpeg(w, h, y, [(4, 2), (2, 1), (2, 1)], scans=separate)
    files["jpeg-two-scans.jpg"] = jpeg(w, h, y, half, scans=[[0], [2, 1]], restart=1)
    files["jpeg-factors-4-2.jpg"] = jpeg(w, h, y, [(4, 1), (2, 1), (2, 1)])
    files["jpeg-restart-gray.jpg"] = jpeg(w, h, gray, [(1, 1)], restart=1)
    files["jpeg-16-bit-quantisation.jpg"] = jpeg(w, h, y, same, sof=0xC1, wide=True)
    files["jpeg-extended-sequential.jpg"] = jpeg(w, h, y, same, sof=0xC1)
    files["jpeg-comments.jpg"] = jpeg(w, h, y, same, JFIF + segment(0xFE, b"a comment \xff\xd9") + segment(0xE1, bytes(300)))
    inks = four(w, h, 154)
    whole, quarter = [(1, 1)] * 4, [(2, 2), (1, 1), (1, 1), (2, 2)]
    files["jpeg-cmyk-adobe-0-420.jpg"] = jpeg(w, h, inks, quarter, adobe(0))
    files["jpeg-cmyk-no-marker.jpg"] = jpeg(w, h, inks, whole, b"")
    files["jpeg-ycck.jpg"] = jpeg(w, h, inks, whole, adobe(2))
    files["jpeg-ycck-420.jpg"] = jpeg(w, h, inks, quarter, adobe(2))
    files["jpeg-trailing-garbage.jpg"] = jpeg(w, h, y, same) + bytes(range(256))
    make_rare_jpegs()


def without(data, marker):
    """Removes the segments with a marker before the first scan."""
    at, out = 2, data[:2]
    while True:
        end = at + 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
        if data[at + 1] != marker:
            out += data[at:end]
        if data[at + 1] == 0xDA:
            return out + data[end:]
        at = end


def make_rare_jpegs():
    """Valid files that many decoders reject."""
    w, h = 27, 21
    y, inks = ycc(w, h, 161), four(w, h, 162)
    same, quarter = [(1, 1)] * 3, [(2, 2), (1, 1), (1, 1)]
    save("jpeg-standard-tables.jpg", rgb(w, h, 163), format="JPEG", quality=70)
    files["jpeg-standard-tables.jpg"] = without(files["jpeg-standard-tables.jpg"], 0xC4)
    base = jpeg(w, h, y, quarter)
    unused = b"".join(segment(0xC4, bytes([number]) + bytes(16)) for number in (0x03, 0x13))
    overlapping = segment(0xC4, b"\x02" + bytes([3] + [0] * 15) + bytes(3))
    files["jpeg-unused-tables.jpg"] = base[:20] + unused + overlapping + base[20:]
    high = base.replace(b"\x00" + DC_TABLE, b"\x02" + DC_TABLE).replace(b"\x10" + AC_TABLE, b"\x13" + AC_TABLE)
    files["jpeg-tables-2-and-3.jpg"] = high.replace(b"\x03\x01\0\x02\0\x03\0", b"\x03\x01\x23\x02\x23\x03\x23")
    files["jpeg-16-bit-quantization-baseline.jpg"] = jpeg(w, h, y, same, wide=True)
    jfxx = segment(0xE0, b"JFXX\0\x13\1\1\1\2\3")
    files["jpeg-jfif-jfxx-adobe-0.jpg"] = jpeg(w, h, y, same, JFIF + jfxx + adobe(0))
    files["jpeg-one-id.jpg"] = jpeg(w, h, y, quarter, ids=(7, 7, 7))
    fill = base[:20] + b"\xff\xff" + base[20:-2].replace(b"\xff\0", b"\xff\xff\xff\0") + b"\xff\xff" + base[-2:]
    files["jpeg-fill-bytes.jpg"] = fill
    for name, sampling in {
        "3-1": [(3, 1), (1, 1), (1, 1)],
        "21-12": [(2, 1), (1, 2), (1, 1)],
        "luma-lower": [(1, 1), (2, 2), (1, 2)],
    }.items():
        files[f"jpeg-sampling-{name}.jpg"] = jpeg(w, h, y, sampling)
    files["jpeg-cmyk-ss2.jpg"] = jpeg(w, h, inks, [(2, 2), (1, 1), (1, 1), (1, 1)], adobe(0))
    files["jpeg-ycck-k-lower.jpg"] = jpeg(w, h, inks, [(2, 1), (1, 1), (1, 1), (1, 1)], adobe(2))

    three = [0, 1, 2]
    scans = [three, [0], [1], [2], [0], [1], [2], three, [0], [0]]
    bands = [(0, 0, 0, 1), (1, 5, 0, 2), (1, 63, 0, 1), (1, 63, 0, 1), (6, 63, 0, 2), (1, 63, 1, 0), (1, 63, 1, 0), (0, 0, 1, 0),
             (1, 63, 2, 1), (1, 63, 1, 0)]
    files["jpeg-progressive-restart-420.jpg"] = jpeg(w, h, y, quarter, scans=scans, bands=bands, sof=0xC2, restart=3)
    files["jpeg-progressive-21-12.jpg"] = jpeg(w, h, y, [(2, 1), (1, 2), (1, 1)], scans=scans, bands=bands, sof=0xC2)
    ink_scans, ink_bands = [[0, 1, 2, 3], [0], [1], [2], [3]], [(0, 0, 0, 0)] + [(1, 63, 0, 0)] * 4
    files["jpeg-progressive-ycck-420.jpg"] = jpeg(w, h, inks, [(2, 2), (1, 1), (1, 1), (2, 2)], adobe(2), scans=ink_scans, bands=ink_bands, sof=0xC2)
    # Incomplete: the decoder estimates coefficients.
    for name, count in {"dc": 1, "some-bits": 5}.items():
        files[f"jpeg-progressive-only-{name}.jpg"] = jpeg(w, h, y, same, scans=scans[:count], bands=bands[:count], sof=0xC2)


# ----------------------------------------------------------------------------------------- PNG


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def pack_rows(samples, depth, first=0):
    """samples: [height, width, channels]; every row gets the next of the five filters."""
    height, width, channels = samples.shape
    flat = samples.reshape(height, width * channels)
    if depth == 16:
        rows = flat.astype(">u2").view(np.uint8).reshape(height, -1)
    elif depth == 8:
        rows = flat.astype(np.uint8)
    else:
        bits = (flat[:, :, None] >> np.arange(depth - 1, -1, -1)) & 1
        rows = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    step = max(1, channels * depth // 8)
    out, above = b"", np.zeros(rows.shape[1], int)
    for number, row in enumerate(rows.astype(int)):
        left = np.concatenate([np.zeros(step, int), row])[: len(row)]
        corner = np.concatenate([np.zeros(step, int), above])[: len(row)]
        paeth = left + above - corner
        a, b, c = abs(paeth - left), abs(paeth - above), abs(paeth - corner)
        nearest = np.where((a <= b) & (a <= c), left, np.where(b <= c, above, corner))
        kind = (number + first) % 5
        out += bytes([kind]) + bytes(((row - [0 * row, left, above, (left + above) // 2, nearest][kind]) & 255).astype(np.uint8))
        above = row
    return out


def png(samples, depth, color, chunks=b"", interlaced=False, pieces=1):
    if samples.ndim == 2:
        samples = samples[:, :, None]
    height, width = samples.shape[:2]
    if interlaced:
        raw = b""
        for y, x, dy, dx in [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]:
            if samples[y::dy, x::dx].size:
                raw += pack_rows(samples[y::dy, x::dx], depth, y)
    else:
        raw = pack_rows(samples, depth)
    data = zlib.compress(raw, 9)
    cut = -(-len(data) // pieces)
    body = b"".join(chunk(b"IDAT", data[i : i + cut]) for i in range(0, len(data), cut))
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, int(interlaced))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunks + body + chunk(b"IEND", b"")


def make_pngs():
    rng = np.random.default_rng(200)

    def samples(channels, depth, size=(37, 45)):
        return rng.integers(0, 1 << depth, size + (channels,))

    for interlaced in (False, True):
        suffix = "-interlaced" if interlaced else ""
        for depth in (1, 2, 4, 8, 16):
            files[f"png-gray-{depth}{suffix}.png"] = png(samples(1, depth), depth, 0, interlaced=interlaced)
        for depth in (1, 2, 4, 8):
            colors = chunk(b"PLTE", bytes(rng.integers(0, 256, 3 << depth).tolist()))
            files[f"png-palette-{depth}{suffix}.png"] = png(samples(1, depth), depth, 3, colors, interlaced)
        for depth in (8, 16):
            files[f"png-rgb-{depth}{suffix}.png"] = png(samples(3, depth), depth, 2, interlaced=interlaced)
            files[f"png-gray-alpha-{depth}{suffix}.png"] = png(samples(2, depth), depth, 4, interlaced=interlaced)
            files[f"png-rgba-{depth}{suffix}.png"] = png(samples(4, depth), depth, 6, interlaced=interlaced)
    # Pillow clips 16-bit gray at 255: levels around it, where the clipping shows.
    files["png-gray-16-dark.png"] = png(rng.integers(0, 400, (37, 45, 1)), 16, 0)

    eight = bytes(rng.integers(0, 256, 24).tolist())
    index = samples(1, 3)
    files["png-palette-transparent.png"] = png(index, 8, 3, chunk(b"PLTE", eight) + chunk(b"tRNS", b"\x00"))
    files["png-palette-many-alphas.png"] = png(index, 8, 3, chunk(b"PLTE", eight) + chunk(b"tRNS", bytes([10, 0, 200])))
    files["png-palette-index-beyond.png"] = png(samples(1, 8), 8, 3, chunk(b"PLTE", eight))
    files["png-palette-4-too-many-colors.png"] = png(samples(1, 4), 4, 3, chunk(b"PLTE", bytes(rng.integers(0, 256, 768).tolist())))
    files["png-palette-missing.png"] = png(samples(1, 8), 8, 3)
    files["png-gray-transparent.png"] = png(samples(1, 8), 8, 0, chunk(b"tRNS", b"\0\x40"))
    files["png-rgb-transparent.png"] = png(samples(3, 8), 8, 2, chunk(b"tRNS", b"\0\x40\0\x41\0\x42"))
    files["png-rgb-with-palette.png"] = png(samples(3, 8), 8, 2, chunk(b"PLTE", eight))
    extra = chunk(b"gAMA", struct.pack(">I", 45455)) + chunk(b"tEXt", b"Comment\0hello") + chunk(b"pHYs", b"\0\0\1\0\0\0\1\0\1")
    files["png-many-chunks.png"] = png(samples(3, 8, (34, 33)), 8, 2, extra, pieces=7)
    plain = png(samples(3, 8, (32, 32)), 8, 2)
    files["png-32x32.png"] = plain
    files["png-trailing-garbage.png"] = plain + b"garbage" * 20
    files["png-without-end.png"] = plain[:-12]
    files["png-wrong-data-checksum.png"] = plain[:-16] + bytes([plain[-16] ^ 1]) + plain[-15:]
    surplus = pack_rows(np.arange(33 * 32 * 3).reshape(33, 32, 3) // 5 % 256, 8)
    files["png-surplus-data.png"] = plain[:33] + chunk(b"IDAT", zlib.compress(surplus)) + plain[-12:]
    files["png-1x1.png"] = png(np.array([[[200, 100, 50]]]), 8, 2)
    files["png-1x1-interlaced.png"] = png(np.array([[[20, 100, 250]]]), 8, 2, interlaced=True)
    files["png-3x500.png"] = png(samples(3, 8, (500, 3)), 8, 2)
    files["png-500x3.png"] = png(samples(3, 8, (3, 500)), 8, 2)
    files["png-32x7.png"] = png(samples(3, 8, (7, 32)), 8, 2)
    files["png-7x32.png"] = png(samples(3, 8, (32, 7)), 8, 2)
    files["png-31x33.png"] = png(samples(3, 8, (33, 31)), 8, 2)
    files["png-64x64.png"] = png(samples(3, 8, (64, 64)), 8, 2)
    # A large shrink of an image that deflates to little: cells of 25×25 pixels.
    cells = samples(3, 8, (60, 80))
    files["png-2000x1500.png"] = png(np.repeat(np.repeat(cells, 25, 0), 25, 1), 8, 2)
    files["png-white-9999x3.png"] = png(np.full((3, 9999, 1), 255), 8, 0)
    frames = [rgb(40, 36, 211), rgb(40, 36, 212)]
    save("png-animated.png", frames[0], format="PNG", save_all=True, append_images=frames[1:])


# ----------------------------------------------------------------------------------------- GIF


def lzw(index, size, defer=False):
    """GIF's LZW with a growing dictionary and clear codes; with defer, none when the dictionary is full."""
    clear, end = 1 << size, (1 << size) + 1
    value = count = 0
    out = bytearray()

    def put(code, width):
        nonlocal value, count
        value |= code << count
        count += width
        while count >= 8:
            out.append(value & 255)
            value >>= 8
            count -= 8

    table, width, following = {(i,): i for i in range(clear)}, size + 1, end + 1
    put(clear, width)
    word = ()
    for i in index:
        if word + (i,) in table:
            word += (i,)
            continue
        put(table[word], width)
        if following < 4096:
            table[word + (i,)] = following
            if following == 1 << width:
                width += 1
            following += 1
        elif not defer:
            put(clear, width)
            table, width, following = {(j,): j for j in range(clear)}, size + 1, end + 1
        word = (i,)
    put(table[word], width)
    put(end, width)
    if count:
        out.append(value & 255)
    return bytes([size]) + b"".join(bytes([len(out[i : i + 255])]) + out[i : i + 255] for i in range(0, len(out), 255)) + b"\0"


def gif(screen, index, at=(0, 0), palette=None, local=None, transparent=None, interlaced=False, size=4, before=b"", version=b"GIF89a", background=0, defer=False):
    height, width = index.shape

    def table(p):
        return 0 if p is None else 0x80 | (len(p) // 3 - 1).bit_length() - 1

    out = version + struct.pack("<HHBBB", *screen, table(palette), background, 0) + (palette or b"") + before
    if transparent is not None:
        out += b"!\xf9\x04\x01\0\0" + bytes([transparent]) + b"\0"
    out += b"," + struct.pack("<HHHHB", *at, width, height, table(local) | (0x40 if interlaced else 0)) + (local or b"")
    if interlaced:
        index = np.concatenate([index[0::8], index[4::8], index[2::4], index[1::2]])
    return out + lzw(index.reshape(-1).tolist(), size, defer) + b";"


def make_gifs():
    rng = np.random.default_rng(300)
    sixteen = [bytes(rng.integers(0, 256, 48).tolist()) for _ in range(2)]
    index = rng.integers(0, 16, (37, 45))
    small = rng.integers(0, 16, (20, 25))
    files["gif-plain.gif"] = gif((45, 37), index, palette=sixteen[0])
    files["gif-87a.gif"] = gif((45, 37), index, palette=sixteen[0], version=b"GIF87a")
    files["gif-interlaced.gif"] = gif((45, 37), index, palette=sixteen[0], interlaced=True)
    for height in (1, 2, 3, 4, 5):
        files[f"gif-interlaced-height-{height}.gif"] = gif((45, height), index[:height], palette=sixteen[0], interlaced=True)
    files["gif-transparent.gif"] = gif((45, 37), index, palette=sixteen[0], transparent=3)
    files["gif-small-frame.gif"] = gif((45, 37), small, (7, 5), sixteen[0], background=9)
    files["gif-small-frame-transparent.gif"] = gif((45, 37), small, (7, 5), sixteen[0], transparent=6)
    files["gif-small-frame-interlaced.gif"] = gif((45, 37), small, (7, 5), sixteen[0], interlaced=True)
    files["gif-frame-beyond-screen.gif"] = gif((20, 10), small, (7, 5), sixteen[0])
    files["gif-local-palette.gif"] = gif((45, 37), index, palette=sixteen[0], local=sixteen[1])
    files["gif-local-palette-only.gif"] = gif((45, 37), small, (3, 4), local=sixteen[1], transparent=2)
    files["gif-no-palette.gif"] = gif((45, 37), index)
    files["gif-few-colors.gif"] = gif((45, 37), index, palette=sixteen[0][:12])
    files["gif-256-colors.gif"] = gif((61, 50), rng.integers(0, 256, (50, 61)), palette=bytes(rng.integers(0, 256, 768).tolist()), size=8)
    files["gif-full-dictionary.gif"] = gif((90, 90), rng.integers(0, 16, (90, 90)), palette=sixteen[0])
    files["gif-two-colors.gif"] = gif((33, 34), rng.integers(0, 2, (34, 33)), palette=sixteen[0][:6], size=2)
    comment = b"!\xfe\x05hello\0" + b"!\xff\x0bNETSCAPE2.0\x03\1\0\0\0" + b"!\x07\x02ab\0"
    files["gif-extensions.gif"] = gif((45, 37), index, palette=sixteen[0], before=comment)
    for size in (9, 11):
        files[f"gif-code-size-{size}.gif"] = gif((25, 20), small, palette=sixteen[0], size=size)
    # With code size 1, Pillow's codes never become longer than two bits.
    codes = sum((int(v) << 2 + 2 * n for n, v in enumerate(small.reshape(-1)[:25] & 1)), 2)
    one = gif((5, 5), small[:5, :5], palette=sixteen[0][:6])
    files["gif-code-size-1.gif"] = one[: one.index(b",") + 10] + b"\x01\x07" + codes.to_bytes(7, "little") + b"\0;"
    files["gif-deferred-clear.gif"] = gif((45, 37), (index * 7 + np.arange(45) % 3) % 128, palette=sixteen[0], defer=True, size=10)
    files["gif-trailing-garbage.gif"] = gif((32, 32), rng.integers(0, 16, (32, 32)), palette=sixteen[0]) + b"garbage"
    frames = [rgb(40, 36, 311), rgb(40, 36, 312)]
    save("gif-animated.gif", frames[0], format="GIF", save_all=True, append_images=frames[1:])
    save("gif-pillow-gray.gif", rgb(40, 36, 313).convert("L"), format="GIF")


# ---------------------------------------------------------------------------------------- WebP


def riff(*chunks):
    body = b"WEBP" + b"".join(kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) & 1) for kind, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def u24(v):
    return struct.pack("<I", v)[:3]


def make_webps():
    for w, h in [(32, 32), (45, 37), (1, 1), (2, 2), (1, 7), (7, 1), (3, 50), (50, 3), (48, 32)]:
        save(f"webp-lossy-{w}x{h}.webp", rgb(w, h, 400 + w * h), format="WEBP", quality=70)
    save("webp-lossy-low.webp", rgb(61, 47, 401), format="WEBP", quality=5)
    save("webp-lossy-high.webp", rgb(61, 47, 402), format="WEBP", quality=100, method=6)
    save("webp-lossless.webp", rgb(45, 37, 403), format="WEBP", lossless=True)
    save("webp-lossless-1x1.webp", rgb(1, 1, 404), format="WEBP", lossless=True)
    save("webp-lossless-few-colors.webp", rgb(45, 37, 405).quantize(9).convert("RGB"), format="WEBP", lossless=True)
    rgba = Image.fromarray(test_image(45, 37, 406, 4), "RGBA")
    save("webp-lossless-alpha.webp", rgba, format="WEBP", lossless=True, exact=True)
    save("webp-lossy-alpha.webp", rgba, format="WEBP", quality=80, exact=True)
    save("webp-lossy-metadata.webp", rgb(45, 37, 407), format="WEBP", quality=80, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0", icc_profile=b"profile")
    save("webp-lossless-metadata.webp", rgb(45, 37, 408), format="WEBP", lossless=True, icc_profile=b"odd")
    frames = [rgb(40, 36, 409), rgb(40, 36, 410)]
    save("webp-animated.webp", frames[0], format="WEBP", save_all=True, append_images=frames[1:], quality=80)
    save("webp-animated-lossless.webp", frames[0], format="WEBP", save_all=True, append_images=frames[1:], lossless=True)
    files["webp-trailing-garbage.webp"] = files["webp-lossy-32x32.webp"] + b"garbage!"
    still = files["webp-lossy-2x2.webp"][12:]
    inner = files["webp-lossless.webp"][12:]
    for name, body, (w, h), flags in [("lossy", files["webp-lossy-45x37.webp"][12:], (45, 37), 2), ("lossless", inner, (45, 37), 0x12)]:
        frame = u24(4) + u24(3) + u24(w - 1) + u24(h - 1) + u24(100) + b"\0" + body
        second = u24(0) + u24(0) + u24(1) + u24(1) + u24(100) + b"\0" + still
        canvas = bytes([flags, 0, 0, 0]) + u24(63) + u24(51)
        files[f"webp-animated-small-frame-{name}.webp"] = riff(
            (b"VP8X", canvas), (b"ANIM", b"\x40\x80\xc0\xff\0\0"), (b"ANMF", frame), (b"ANMF", second)
        )


# ----------------------------------------------------------------------------------------- BMP


def bmp(width, height, bits, rows, palette=b"", compression=0, masks=b"", size=40, gap=b"", top_down=False, colors=0, offset=None):
    if size == 12:
        header = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        header = struct.pack("<IiiHHIIiiII", size, width, -height if top_down else height, 1, bits, compression, len(rows), 2835, 2835, colors, 0)
        if size > 40:
            header += masks + bytes(size - 40 - len(masks))
            masks = b""
    before = header + masks + palette + gap
    if offset is None:
        offset = 14 + len(before)
    return b"BM" + struct.pack("<IHHI", 14 + len(before) + len(rows), 0, 0, offset) + before + rows


def lines(array, bits):
    """Rows from the bottom, padded to four bytes."""
    out = b""
    for row in array[::-1]:
        if bits < 8:
            row = np.packbits(((row[:, None] >> np.arange(bits - 1, -1, -1)) & 1).astype(np.uint8))
        data = row.tobytes()
        out += data + b"\0" * (-len(data) % 4)
    return out


def make_bmps():
    rng = np.random.default_rng(500)
    w, h = 45, 37
    for bits in (1, 4, 8):
        index = rng.integers(0, 1 << bits, (h, w)).astype(np.uint8)
        colors = bytes(rng.integers(0, 256, 4 << bits).tolist())
        files[f"bmp-palette-{bits}.bmp"] = bmp(w, h, bits, lines(index, bits), colors)
        files[f"bmp-palette-{bits}-top-down.bmp"] = bmp(w, h, bits, lines(index[::-1], bits), colors, top_down=True)
        files[f"bmp-os2-{bits}.bmp"] = bmp(w, h, bits, lines(index, bits), colors[: 3 << bits], size=12)
    index = rng.integers(0, 11, (h, w)).astype(np.uint8)
    files["bmp-palette-8-few-colors.bmp"] = bmp(w, h, 8, lines(index, 8), bytes(rng.integers(0, 256, 28).tolist()), colors=7)
    files["bmp-palette-8-gap.bmp"] = bmp(w, h, 8, lines(index, 8), bytes(rng.integers(0, 256, 64).tolist()), colors=16, gap=bytes(10))
    files["bmp-palette-8-offset-of-palette.bmp"] = bmp(w, h, 8, lines(index, 8), bytes(rng.integers(0, 256, 1024).tolist()), offset=54)
    save("bmp-pillow-1.bmp", rgb(w, h, 501).convert("1"), format="BMP")
    save("bmp-pillow-gray.bmp", rgb(w, h, 502).convert("L"), format="BMP")
    save("bmp-pillow-palette.bmp", rgb(w, h, 503).quantize(50), format="BMP")
    save("bmp-pillow-rgb.bmp", rgb(w, h, 504), format="BMP")
    save("bmp-pillow-rgba.bmp", Image.fromarray(test_image(w, h, 505, 4), "RGBA"), format="BMP")

    words = rng.integers(0, 65536, (h, w)).astype("<u2")
    files["bmp-16.bmp"] = bmp(w, h, 16, lines(words, 16))
    files["bmp-16-565.bmp"] = bmp(w, h, 16, lines(words, 16), compression=3, masks=struct.pack("<III", 0xF800, 0x7E0, 0x1F))
    files["bmp-16-555.bmp"] = bmp(w, h, 16, lines(words, 16), compression=3, masks=struct.pack("<III", 0x7C00, 0x3E0, 0x1F))
    colors = rng.integers(0, 256, (h, w, 3)).astype(np.uint8)
    files["bmp-24.bmp"] = bmp(w, h, 24, lines(colors, 24))
    files["bmp-24-top-down.bmp"] = bmp(w, h, 24, lines(colors, 24), top_down=True)
    files["bmp-24-os2.bmp"] = bmp(w, h, 24, lines(colors, 24), size=12)
    files["bmp-24-v5.bmp"] = bmp(w, h, 24, lines(colors, 24), size=124)
    files["bmp-24-gap.bmp"] = bmp(w, h, 24, lines(colors, 24), gap=bytes(7))
    files["bmp-24-32x32.bmp"] = bmp(32, 32, 24, lines(rng.integers(0, 256, (32, 32, 3)).astype(np.uint8), 24))
    files["bmp-24-trailing-garbage.bmp"] = bmp(w, h, 24, lines(colors, 24)) + b"garbage"
    files["bmp-24-bitfields.bmp"] = bmp(w, h, 24, lines(colors, 24), compression=3, masks=struct.pack("<III", 0xFF0000, 0xFF00, 0xFF))
    quads = rng.integers(0, 256, (h, w, 4)).astype(np.uint8)
    files["bmp-32.bmp"] = bmp(w, h, 32, lines(quads, 32))
    files["bmp-32-top-down.bmp"] = bmp(w, h, 32, lines(quads, 32), top_down=True)
    for name, masks in {
        "bgrx": (0xFF0000, 0xFF00, 0xFF, 0),
        "bgra": (0xFF0000, 0xFF00, 0xFF, 0xFF000000),
        "rgba": (0xFF, 0xFF00, 0xFF0000, 0xFF000000),
        "xbgr": (0xFF000000, 0xFF0000, 0xFF00, 0),
        "abgr": (0xFF000000, 0xFF0000, 0xFF00, 0xFF),
    }.items():
        files[f"bmp-32-bitfields-{name}.bmp"] = bmp(w, h, 32, lines(quads, 32), compression=3, masks=struct.pack("<IIII", *masks), size=108)
    files["bmp-32-bitfields-40.bmp"] = bmp(w, h, 32, lines(quads, 32), compression=3, masks=struct.pack("<III", 0xFF0000, 0xFF00, 0xFF))

    # Runs: encoded, literal of even and odd length, ends of line before and at the edge.
    table = bytes(rng.integers(0, 256, 1024).tolist())
    rows8 = rows4 = b""
    for y in range(12):
        rows8 += bytes([10, y]) + b"\0\x03\x05\x06\x07\0" + b"\0\x04\x01\x02\x03\x04" + bytes([3, 200])
        rows4 += bytes([10, 0x10 | y]) + b"\0\x04\x56\x78" + b"\0\x08\x12\x34\x56\x78" + bytes([3, 0xAB])
        if y % 3 == 1:  # fill up to the edge
            rows8 += bytes([5, 99]) + b"\0\x00"
            rows4 += bytes([5, 0xCD])
        elif y % 3 == 2:  # a run that would pass the edge
            rows8 += bytes([200, 3])
            rows4 += bytes([200, 0x21])
        rows8 += b"\0\0"
        rows4 += b"\0\0"
    files["bmp-rle8.bmp"] = bmp(25, 12, 8, rows8 + b"\0\1", table, compression=1)
    files["bmp-rle8-top-down.bmp"] = bmp(25, 12, 8, rows8 + b"\0\1", table, compression=1, top_down=True)
    files["bmp-rle4.bmp"] = bmp(30, 12, 4, rows4 + b"\0\1", table[:64], compression=2)


def main():
    make_jpegs()
    make_pngs()
    make_gifs()
    make_webps()
    make_bmps()
    os.makedirs(OUT, exist_ok=True)
    for old in os.listdir(OUT):
        os.remove(os.path.join(OUT, old))
    expected = {}
    for name, data in sorted(files.items()):
        with open(os.path.join(OUT, name), "wb") as f:
            f.write(data)
        try:
            image = Image.open(io.BytesIO(data)).convert("RGB")
            expected[name] = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))
        except Exception as e:
            raise SystemExit(f"Pillow does not read {name}: {e!r}")
    np.savez_compressed("expected.npz", **expected)
    print(len(files), "images,", sum(map(len, files.values())), "bytes")


if __name__ == "__main__":
    main()
