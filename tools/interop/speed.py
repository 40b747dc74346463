"""Compare the speed of internal/imaging with Pillow, in one run and on one core.

    build/interop/venv/bin/python tools/interop/speed.py [WORD…]

Both read the same files, convert them to RGB and resize them to 32×32, or FAKEART_SIZE pixels per side. They alternate,
and the least processor time of all rounds counts. JPEGs are also measured at a reduced size: Pillow's draft mode
against `jpeg: dct`. With words, only files whose names contain one are measured, such as .webp.
"""

import io
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import numpy as np
import PIL
from PIL import Image, features

ROOT = pathlib.Path(__file__).resolve().parents[2]
ROUNDS = 5
SECONDS = 0.3  # per image and round
SIDE = int(os.environ.get("FAKEART_SIZE", 32))
SIZES = [(32, 32), (640, 480), (1920, 1080), (4000, 3000)]


def photo(width, height):
    """Return an image with about as much detail as a photo."""
    random = np.random.default_rng(1)
    small = Image.fromarray(random.integers(0, 256, (max(height // 12, 2), max(width // 12, 2), 3), np.uint8))
    values = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)) + random.normal(0, 4, (height, width, 3))
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def write(folder):
    for width, height in SIZES:
        image = photo(width, height)
        for sampling in ("4:2:0", "4:4:4"):
            for progressive in (False, True):
                name = f"{'progressive' if progressive else 'baseline'}-{sampling.replace(':', '')}-{width}x{height}.jpg"
                image.save(folder / name, quality=85, subsampling=sampling, progressive=progressive)
        image.save(folder / f"rgb-{width}x{height}.png")
        image.quantize(256).save(folder / f"palette-{width}x{height}.gif")
        image.save(folder / f"lossy-{width}x{height}.webp", quality=85)
        image.save(folder / f"lossless-{width}x{height}.webp", lossless=True, method=1)


def pillow(data, reduced):
    """Return the processor time in seconds that Pillow takes for an image."""

    def measure(repeat):
        start = time.process_time()
        for _ in range(repeat):
            image = Image.open(io.BytesIO(data))
            if reduced:
                image.draft(None, (SIDE, SIDE))
            image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        return (time.process_time() - start) / repeat

    best, end = measure(1), time.perf_counter() + SECONDS
    repeat = 1 + int(0.01 / best)
    while time.perf_counter() < end:
        best = min(best, measure(repeat))
    return best


def ours(folder):
    """Return the processor time in seconds that internal/imaging takes, by file name and whether the size is reduced."""
    command = ["go", "test", "./internal/imaging", "-run", "^$", "-bench", "(Tensor|Reduced)Files$", "-benchtime", f"{SECONDS}s"]
    env = os.environ | {"FAKEART_IMAGES": str(folder), "GOMAXPROCS": "1"}
    output = subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, text=True).stdout
    results = re.findall(r"Benchmark(Tensor|Reduced)Files/(\S+).*?([\d.]+) fastest-ns", output)
    return {(name, kind == "Reduced"): float(ns) / 1e9 for kind, name, ns in results}


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        write(folder)
        for file in list(folder.iterdir()):
            if not any(word in file.name for word in sys.argv[1:] or [""]):
                file.unlink()
        files = {file.name: file.read_bytes() for file in sorted(folder.iterdir())}
        best = {(name, reduced): [float("inf")] * 2 for reduced in (False, True) for name in files}
        best = {key: value for key, value in best.items() if not key[1] or key[0].endswith(".jpg")}
        for _ in range(ROUNDS):
            times = ours(folder)
            for (name, reduced), (own, other) in best.items():
                best[name, reduced] = [min(own, times[name, reduced]), min(other, pillow(files[name], reduced))]
    print(f"Pillow {PIL.__version__}, libjpeg-turbo {features.version('libjpeg_turbo')}, libwebp {features.version('webp')}\n")
    print("| image | ms | Pillow, ms | ratio |\n|---|---|---|---|")
    for (name, reduced), (own, other) in best.items():
        print(f"| {name}{', reduced' if reduced else ''} | {own * 1e3:.3g} | {other * 1e3:.3g} | {own / other:.2f} |")


if __name__ == "__main__":
    main()
