#!/usr/bin/env python3
"""Writes testdata/draft.npz: the JPEGs in testdata/images, decoded by Pillow at 1/2, 1/4 and 1/8 of their size.

    python3 make_draft_fixtures.py        # Pillow 13, NumPy

Run it in this folder. The key is the file's name, a slash, and the divisor; the value has rows of RGB pixels. With "12×9"
instead of the divisor, the image is resized to this size after Pillow's draft mode for it.
"""

import pathlib

import numpy as np
from PIL import Image

expected = {}
for path in sorted(pathlib.Path("images").glob("*.jpg")):
    for divisor in (2, 4, 8):
        image = Image.open(path)
        width, height = image.size
        image.draft(None, (max(width // divisor, 1), max(height // divisor, 1)))
        if image.size == (-(-width // divisor), -(-height // divisor)) != (width, height):
            expected[f"{path.name}/{divisor}"] = np.asarray(image.convert("RGB"))
    image = Image.open(path)
    size = image.size
    image.draft(None, (12, 9))
    if image.size != size:
        expected[f"{path.name}/12×9"] = np.asarray(image.convert("RGB").resize((12, 9), Image.Resampling.BILINEAR))
np.savez_compressed("draft.npz", **expected)
print(len(expected), "images")
