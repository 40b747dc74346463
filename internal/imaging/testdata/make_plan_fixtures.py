#!/usr/bin/python3
"""Writes small images to testdata/plans, with cases.json (preprocessing settings per image) and expected.npz (the pixels that
Pillow or OpenCV prepare by these settings).

    pip install pillow==13.0.0 numpy==2.4.6 opencv-python-headless==5.0.0.93
    python3 make_plan_fixtures.py

Run it in this folder. The sizes and offsets are computed with the formulas of torchvision 0.29 (Resize, CenterCrop), timm 1.0.31
(ResizeKeepRatio, CenterCropOrPad) and transformers 5.24 (center_crop), which are copied here because these packages
need PyTorch.
"""

import io
import json
import os

import cv2
import numpy as np
from PIL import Image, ImageOps

OUT = "plans"
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
OPENCV = {"nearest": None, "bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC, "lanczos": cv2.INTER_LANCZOS4}


def scene(width, height, seed, channels=3):
    """Gradients with sharp edges, at which filters overshoot."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    out = np.empty((height, width, channels))
    for c in range(channels):
        out[:, :, c] = 128 + 90 * np.sin(rng.uniform(0.05, 0.4) * x + rng.uniform(0.05, 0.4) * y + c)
    for _ in range(4):
        x0, y0 = rng.integers(0, width), rng.integers(0, height)
        out[y0 : y0 + 1 + height // 3, x0 : x0 + 1 + width // 3] = rng.choice([0, 255], channels)
    return np.clip(out + rng.normal(0, 4, out.shape), 0, 255).astype(np.uint8)


def rgb(width, height, seed):
    return Image.fromarray(scene(width, height, seed))


def orientation(n):
    exif = Image.Exif()
    exif[0x0112] = n
    return exif


def make_images():
    images = {}

    def save(name, image, **options):
        buffer = io.BytesIO()
        image.save(buffer, **options)
        images[name] = buffer.getvalue()

    for i, (w, h) in enumerate([(61, 37), (38, 67), (150, 9), (5, 7), (33, 150), (24, 20)]):
        save(f"rgb-{w}x{h}.png", rgb(w, h, i), format="PNG", optimize=True)
    color = rgb(53, 41, 20)
    save("gray.png", color.convert("L"), format="PNG")
    save("gray-alpha.png", color.convert("LA"), format="PNG")
    rgba = color.copy()
    rgba.putalpha(color.convert("L"))
    save("rgba.png", rgba, format="PNG")
    save("palette.png", color.quantize(17), format="PNG")
    save("bilevel.png", color.convert("1"), format="PNG")
    save("16-bit.png", Image.fromarray((scene(31, 29, 5, 1)[:, :, 0].astype(np.uint16) * 3)), format="PNG")
    save("palette.gif", color.quantize(40), format="GIF", interlace=0)
    save("interlaced.gif", color.quantize(40), format="GIF", interlace=1)
    save("color.bmp", color, format="BMP")
    save("gray.jpg", color.convert("L"), format="JPEG", quality=90)
    save("cmyk.jpg", color.convert("CMYK"), format="JPEG", quality=90)
    save("lossless.webp", color, format="WEBP", lossless=True)
    for n in range(1, 9):
        save(f"turned-{n}.png", rgb(43, 26, 30), format="PNG", exif=orientation(n))
    save("turned-6.jpg", color.convert("L"), format="JPEG", quality=90, exif=orientation(6))
    save("turned-5.webp", color, format="WEBP", lossless=True, exif=orientation(5))
    save("turned-8.tif", color, format="TIFF", tiffinfo={0x0112: 8})
    save("turned-7-small.png", rgb(9, 6, 31), format="PNG", exif=orientation(7))
    return images


def shortest_edge(w, h, p):
    n, nh = p["resize"], p.get("resize_height", 0)
    if nh in (0, n):  # torchvision, transformers
        short, long = (w, h) if w <= h else (h, w)
        new_short, new_long = n, int(n * long / short)
        return (new_short, new_long) if w <= h else (new_long, new_short)
    ratio = min(h / nh, w / n)  # timm
    return round(w / ratio), round(h / ratio)


def place(image, width, height, color, down):
    """center_crop_or_pad in timm, center_crop in torchvision: with down, the offset is rounded as in transformers."""
    w, h = image.size
    if width > w or height > h:
        left, top = max(width - w, 0) // 2, max(height - h, 0) // 2
        padded = Image.new(image.mode, (max(w, width), max(h, height)), color)
        padded.paste(image, (left, top))
        image = padded
        w, h = image.size
    if down:
        left, top = (w - width) // 2, (h - height) // 2
    else:
        left, top = int(round((w - width) / 2.0)), int(round((h - height) / 2.0))
    return image.crop((left, top, left + width, top + height))


def prepare(data, p):
    image = Image.open(io.BytesIO(data))
    if p.get("jpeg") == "dct":
        image.draft(None, (p["width"], p["height"]))
    if p.get("orientation") == "apply":
        image = ImageOps.exif_transpose(image)
    color = tuple(p.get("padding", (0, 0, 0)))
    image = image.convert("L" if p.get("color") == "gray" else "RGB")
    if image.mode == "L":
        color = Image.new("RGB", (1, 1), color).convert("L").getpixel((0, 0))
    w, h = image.size
    width, height = p["width"], p["height"]
    if p["fit"] == "shortest-edge":
        size = shortest_edge(w, h, p)
    elif p["fit"] == "contain":
        ratio = max(h / height, w / width)  # ResizeKeepRatio with longest = 1 in timm
        size = round(w / ratio), round(h / ratio)
    else:
        size = width, height
    if p["filter"] == "nearest" or p["antialias"] and p.get("passes") == "pillow-13":
        image = image.resize(size, FILTERS[p["filter"]])
    elif p["antialias"]:  # the order of Pillow before version 12.2
        image = image.resize((size[0], image.height), FILTERS[p["filter"]]).resize(size, FILTERS[p["filter"]])
    elif size != image.size:
        image = Image.fromarray(cv2.resize(np.asarray(image), size, interpolation=OPENCV[p["filter"]]))
    return np.asarray(place(image, width, height, color, p.get("crop") == "down"))


def make_cases(images):
    cases = []

    def add(image, **p):
        p = {"fit": "stretch", "filter": "bilinear", "antialias": True, **p}
        if p["fit"] == "shortest-edge":
            p.setdefault("crop", "half-even")
        if p["antialias"] and p["filter"] != "nearest" and len(cases) % 2:
            p["passes"] = "pillow-13"
        cases.append({"image": image, "preprocessing": p})

    sizes = [(24, 20), (14, 64), (80, 11)]
    for i, name in enumerate(n for n in images if n.startswith("rgb-")):
        for j, kind in enumerate(FILTERS):
            for antialias in (True, False):
                width, height = sizes[(i + j) % 3]
                add(name, width=width, height=height, filter=kind, antialias=antialias)
        # Margins of all remainders by 4.
        for j, (resize, width, height) in enumerate([(16, 16, 16), (19, 16, 16), (19, 12, 17), (17, 14, 16), (12, 16, 14), (13, 16, 16), (15, 14, 15)]):
            for crop in ("half-even", "down"):
                kind = list(FILTERS)[(i + j) % 4]
                add(name, width=width, height=height, fit="shortest-edge", resize=resize, crop=crop, filter=kind, padding=[0, 0, 0])
        add(name, width=14, height=9, fit="shortest-edge", resize=17, resize_height=11, filter="bicubic")
        add(name, width=9, height=14, fit="shortest-edge", resize=11, resize_height=17, filter="bilinear")
        add(name, width=21, height=16, fit="shortest-edge", resize=25, filter="bicubic", antialias=False)
        for j, (width, height) in enumerate([(20, 20), (21, 14), (11, 24)]):
            add(name, width=width, height=height, fit="contain", filter=list(FILTERS)[(i + j) % 4], padding=[10, 200, 30])
        add(name, width=17, height=17, fit="contain", filter="bicubic", padding=[10, 200, 30], antialias=False)
    for name in images:
        if name.startswith("rgb-"):
            continue
        add(name, width=16, height=18, filter="bicubic", orientation="apply")
        add(name, width=16, height=18, filter="bilinear", orientation="apply", color="gray")
        if name.startswith("turned"):
            add(name, width=19, height=13, filter="lanczos", fit="shortest-edge", resize=23, orientation="apply")
            add(name, width=60, height=50, filter="bilinear", fit="contain", orientation="apply", padding=[9, 8, 7])
            add(name, width=15, height=20, filter="nearest", orientation="apply")
            add(name, width=15, height=20, filter="lanczos", orientation="apply", antialias=False)
            if not name.endswith("tif"):  # Pillow turns TIFF always
                add(name, width=15, height=20, orientation="ignore")
    add("turned-5.webp", width=53, height=41, orientation="apply")
    add("turned-5.webp", width=41, height=53, orientation="apply")
    add("gray.png", width=10, height=10, color="gray", fit="contain", padding=[10, 200, 30])
    return cases


def main():
    images = make_images()
    cases = make_cases(images)
    os.makedirs(OUT, exist_ok=True)
    for old in os.listdir(OUT):
        os.remove(os.path.join(OUT, old))
    for name, data in images.items():
        with open(os.path.join(OUT, name), "wb") as f:
            f.write(data)
    expected = {f"{i:03}": prepare(images[c["image"]], c["preprocessing"]).ravel() for i, c in enumerate(cases)}
    np.savez_compressed(os.path.join(OUT, "expected.npz"), **expected)
    with open(os.path.join(OUT, "cases.json"), "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")
    print(len(images), "images,", len(cases), "cases")


if __name__ == "__main__":
    main()
