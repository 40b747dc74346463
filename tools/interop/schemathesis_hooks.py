"""Hooks of Schemathesis: requests with real images and tensors, which no schema can describe."""

import base64
import io

import numpy as np
import schemathesis
from hypothesis import strategies as st
from PIL import Image

HEADER = "Inference-Header-Content-Length"
VALUES = 3 * 32 * 32  # per image


def encode(kind):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (40, 40, 3), np.uint8)).save(file, kind)
    return file.getvalue()


# The media types of the form field with images.
for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF"):
    schemathesis.openapi.media_type(f"image/{kind.lower()}", st.just(encode(kind)))


@schemathesis.hook
def before_call(context, case, kwargs):
    """Complete a valid request: its images, or its header, shape and number of values, which must agree."""
    if not case.meta or case.meta.generation.mode.is_negative:
        return
    if case.path == "/feedback" and isinstance(case.body, dict):
        case.body["label"] = "REAL"  # a label of the model
    if "top" in (case.query or {}):
        case.query["top"] = 2  # the number of its classes
    if case.path in ("/predict", "/model/") and case.media_type == "application/json":
        for instance in case.body["instances"]:
            instance["b64"] = base64.b64encode(encode("PNG")).decode()
    elif not case.path.endswith("/infer"):
        return
    elif case.media_type == "application/octet-stream":
        case.headers[HEADER] = "0"
        case.body = bytes(4 * VALUES)
    elif isinstance(case.body, dict):
        case.headers.pop(HEADER, None)
        case.body.pop("parameters", None)  # a timeout of some microseconds
        tensor = case.body["inputs"][0]
        tensor.update(name="input", datatype="FP32", shape=[2, 3, 32, 32], data=[0.5] * (2 * VALUES))
        if case.body.get("outputs"):
            case.body["outputs"] = case.body["outputs"][:1]
            case.body["outputs"][0]["name"] = "logit"
