"""Writes the models of this folder: tiny networks with random weights, as PyTorch, timm and transformers export them.

Run it with the packages of `make interop`, from the root of the repository:

    OMP_NUM_THREADS=1 build/interop/venv/bin/python trainer/foreign/testdata/export.py
"""

import io
import json
import pathlib
import shutil

import numpy as np
import timm
import torch
import transformers
from PIL import Image
from torch import nn
from torchvision import transforms

HERE = pathlib.Path(__file__).parent
SIZE = 32
torch.set_num_threads(1)
torch.manual_seed(1)


class Residual(nn.Module):
    """A residual network as those of torchvision, with few channels."""

    def __init__(self, classes=3, softmax=False):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, classes)
        self.softmax = softmax

    def forward(self, image):
        x = self.stem(image)
        x = torch.relu(x + self.block(x))
        x = self.fc(torch.flatten(self.pool(x), 1))
        return torch.softmax(x, 1) if self.softmax else x


class Bytes(nn.Module):
    """Takes uint8 pixels, [batch,height,width,3]."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, image):
        return torch.softmax(self.network(image.permute(0, 3, 1, 2).float() / 255), 1)


class Logits(nn.Module):
    """Returns only the logits of a model of transformers."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values):
        return self.model(pixel_values).logits


def strong(network):
    """Make the last layer's weights large, so that the outputs differ clearly between images."""
    last = [m for m in network.modules() if isinstance(m, nn.Linear)][-1]
    nn.init.normal_(last.weight, std=1)
    return network.eval()


def photo(seed, width, height):
    """Return an image with waves and noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [128 + 100 * np.sin(random.uniform(0.02, 0.3) * x + random.uniform(0.02, 0.3) * y + random.uniform(0, 6)) for _ in range(3)]
    return Image.fromarray(np.clip(np.stack(waves, 2) + random.normal(0, 10, (height, width, 3)), 0, 255).astype(np.uint8))


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return np.frombuffer(file.getvalue(), np.uint8)


def save(model, example, path, **options):
    path.parent.mkdir(exist_ok=True)
    torch.onnx.export(model, (example,), str(path), **options)


example = torch.rand(1, 3, SIZE, SIZE)
images = [photo(i, 40 + 7 * i, 61 - 5 * i) for i in range(4)]

network = strong(Residual())
save(network, example, HERE / "dynamo/model.onnx", external_data=True)
save(network, example, HERE / "torchscript.onnx", dynamo=False)
batch = torch.export.Dim("batch")
save(network, example, HERE / "dynamic.onnx", dynamic_shapes=({0: batch},), external_data=False)
transform = transforms.Compose([
    transforms.Resize(36), transforms.CenterCrop(SIZE), transforms.ToTensor(),
    transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
])
with torch.no_grad():
    outputs = network(torch.stack([transform(image) for image in images])).numpy()
np.savez_compressed(HERE / "sample.npz", outputs=outputs, **{f"image{i}": png(image) for i, image in enumerate(images)})

save(Bytes(strong(Residual())).eval(), torch.zeros(1, SIZE, SIZE, 3, dtype=torch.uint8), HERE / "uint8.onnx", external_data=False)

vit = timm.models.VisionTransformer(img_size=SIZE, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=5)
save(strong(vit), example, HERE / "timm/model.onnx", external_data=False)
cfg = {
    "input_size": [3, SIZE, SIZE], "fixed_input_size": True, "interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center",
    "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "num_classes": 5, "test_input_size": [3, 64, 64], "test_crop_pct": 1.0,
}
names = ["tench, Tinca tinca", 'the "big" one', "C#", "crane", "crane"]
(HERE / "timm/config.json").write_text(json.dumps(
    {"architecture": "vit_tiny", "num_classes": 5, "label_names": names, "pretrained_cfg": cfg}, indent=1))

folder = HERE / "transformers"
shutil.rmtree(folder, ignore_errors=True)
(folder / "onnx").mkdir(parents=True)
labels = {i: f"label {i}" for i in range(11)}
config = transformers.ViTConfig(
    image_size=SIZE, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
    id2label=labels, label2id={v: k for k, v in labels.items()})
model = strong(transformers.ViTForImageClassification(config))
model.config.save_pretrained(folder)
processor = transformers.ViTImageProcessor(size={"height": SIZE, "width": SIZE})
processor.save_pretrained(folder)
save(Logits(model).eval(), example, folder / "onnx/model.onnx", external_data=False, output_names=["logits"])
