#!/usr/bin/python3
"""Writes HEIC, AVIF and TIFF images to testdata/heif, and next to each, as NAME.rgb, the 32x32 pixels that Pillow
decodes.

    pip install pillow==13.0.0 pillow-heif==1.8.1 numpy==2.4.6
    python3 make_heif_fixtures.py

Run it in this folder. Pillow 9.4, which make_fixtures.py uses, reads neither HEIC nor AVIF.
"""

import io
import os

import numpy as np
import pillow_heif
from PIL import Image

pillow_heif.register_heif_opener()
OUT = "heif"
os.makedirs(OUT, exist_ok=True)


def scene(width, height, seed=1):
    """Smooth colors with a few edges: chroma that survives subsampling."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    out = np.empty((height, width, 3))
    for c in range(3):
        out[:, :, c] = 128 + 70 * np.sin(0.06 * x + 0.04 * (c + 1) * y + c)
    out[height // 4 : height // 2, width // 3 : width // 2] += 40
    return Image.fromarray(np.clip(out + rng.normal(0, 3, (height, width, 1)), 0, 255).astype(np.uint8))


def write(name, data):
    image = Image.open(io.BytesIO(data))
    image.load()
    with open(f"{OUT}/{name}", "wb") as f:
        f.write(data)
    with open(f"{OUT}/{name}.rgb", "wb") as f:
        f.write(image.convert("RGB").resize((32, 32), Image.BILINEAR).tobytes())


def save(name, image, **options):
    buffer = io.BytesIO()
    image.save(buffer, format={"heic": "HEIF", "avif": "AVIF", "tif": "TIFF"}[name.rsplit(".")[-1]], **options)
    write(name, buffer.getvalue())
    return buffer.getvalue()


image = scene(100, 75)
alpha = image.convert("RGBA")
alpha.putalpha(Image.linear_gradient("L").resize(image.size))

save("444.heic", image, quality=80, chroma=444)
save("422.heic", image, quality=80, chroma=422)
save("420.heic", scene(320, 240), quality=60, chroma=420)
save("gray.heic", image.convert("L"), quality=80)
save("alpha.heic", alpha, quality=80, chroma=444)
save("cropped.heic", scene(33, 21), quality=80, chroma=444)
save("lossless.heic", image, quality=-1, chroma=444)
save("grid.heic", scene(200, 140), quality=80, chroma=444, tile_size=64)  # 4x3 tiles; phones use 512
large = scene(320, 240)
deep = pillow_heif.from_bytes("RGB;16", large.size, (np.asarray(large).astype(np.uint16) * 257).tobytes())
buffer = io.BytesIO()
deep.save(buffer, quality=60, chroma=420)
write("10-bit.heic", buffer.getvalue())

# Rotated and mirrored: replace the pixi property, which decoders ignore, by irot or imir, and make it apply.
plain = save("plain.heic", scene(64, 128), quality=80, chroma=444)


def with_property(data, kind, value):
    at = data.index(b"pixi") - 4
    size = int.from_bytes(data[at : at + 4], "big")
    out = bytearray(data[: at + 4] + kind + bytes([value]) + bytes(size - 9) + data[at + size :])
    at = data.index(b"ipco") + 4
    index = 1
    while out[at + 4 : at + 8] != kind:
        at += int.from_bytes(out[at : at + 4], "big")
        index += 1
    first = out.index(b"ipma") + 4 + 4 + 4 + 2 + 1
    for i in range(first, first + out[first - 1]):
        if out[i] == index:
            out[i] |= 0x80  # essential
    return bytes(out)


for name, kind, value in (("rotated.heic", b"irot", 1), ("mirrored.heic", b"imir", 0)):
    write(name, with_property(plain, kind, value))
gray = save("plain.avif", scene(64, 128), quality=80, subsampling="4:4:4", speed=8)
write("rotated.avif", with_property(gray, b"irot", 3))

save("444.avif", image, quality=80, subsampling="4:4:4", speed=8)
save("422.avif", image, quality=80, subsampling="4:2:2", speed=8)
save("420.avif", scene(320, 240), quality=60, speed=8)
save("gray.avif", image, quality=80, subsampling="4:0:0", speed=8)
save("limited.avif", image, quality=80, subsampling="4:4:4", range="limited", speed=8)
save("alpha.avif", alpha, quality=80, subsampling="4:4:4", speed=8)
save("odd.avif", scene(33, 21), quality=80, subsampling="4:4:4", speed=8)
save("animated.avif", image, quality=60, save_all=True, append_images=[image.rotate(90)], subsampling="4:4:4", speed=8)

small = scene(40, 30)
save("rgb.tif", small)
save("lzw.tif", small, compression="tiff_lzw")
save("deflate.tif", small, compression="tiff_adobe_deflate")
save("packbits.tif", small, compression="packbits")
save("gray.tif", small.convert("L"))
save("bilevel-g4.tif", small.convert("1"), compression="group4")
save("bilevel.tif", small.convert("1"))
save("palette.tif", small.quantize(100))
save("alpha.tif", alpha.resize((40, 30)))
save("gray-16.tif", Image.fromarray(np.linspace(0, 600, 1200).reshape(30, 40).astype(np.uint16)))
save("rotated.tif", small, tiffinfo={274: 6})
with open(f"{OUT}/rotated.tif.rgb", "wb") as f:  # Pillow rotates TIFF, and no other format
    f.write(small.resize((32, 32), Image.BILINEAR).tobytes())
save("two-pages.tif", small, save_all=True, append_images=[small.rotate(180)])
