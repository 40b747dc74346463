"""Models with random weights as torchvision, timm and transformers export them, each with its framework's own pipeline.

Nothing is downloaded. Used by test_frameworks.py.
"""

import dataclasses
import io
import json
import pathlib
from typing import Callable

import numpy as np
import timm
import torch
import torchvision
import transformers
from PIL import Image, ImageOps
from torch import nn
from torchvision import transforms

from test_pillow import image as drawn

torch.set_num_threads(1)


@dataclasses.dataclass
class Exported:
    """A model in an ONNX file."""

    path: pathlib.Path
    # Arguments of `trainer model import`.
    arguments: list[str]
    # Computes the outputs for a batch of tensors that prepare has made of images.
    network: nn.Module
    prepare: Callable[[Image.Image], torch.Tensor]
    # Facts that the imported model must have.
    size: int
    classes: list[str]
    cam: bool = False

    def outputs(self, images):
        """The framework's outputs for image files, one image at a time."""
        with torch.no_grad():
            return np.concatenate([self.network(self.prepare(Image.open(io.BytesIO(file)))[None]).numpy() for file in images])


def names(count):
    """Class names with all that is difficult in them."""
    special = ["tench, Tinca tinca", '"quoted"', "C#", "crane", "crane", "Köln", "# 1"]
    return (special + [f"class {i}" for i in range(len(special), count)])[:count]


def lively(network, shape=(3, 224, 224)):
    """Give a network with random weights outputs that differ clearly between images."""
    torch.manual_seed(1)
    images = nn.functional.interpolate(torch.randn(16, shape[0], 9, 9), shape[1:], mode="bicubic") + 0.3 * torch.randn(16, *shape)
    with torch.no_grad():
        network.train()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1  # the statistics are those of these images
        network(images)
        network.eval()
        logits = network(images)
        last = [m for m in network.modules() if isinstance(m, nn.Linear)][-1]
        scale = 2 / logits.std(0).mean()
        last.bias.copy_((last.bias - logits.mean(0)) * scale)
        last.weight.mul_(scale)
    return network


def rgb(transform):
    return lambda image: transform(image.convert("RGB"))


def export(network, example, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(network, (example,), str(path), verbose=False, **options)
    return path


def labels(folder, count):
    path = folder / "names.txt"
    path.write_bytes("\r\n".join(["\ufeff" + names(count)[0], *names(count)[1:]]).encode())
    return f"--labels={path}"


EXAMPLE = torch.rand(1, 3, 224, 224)


def mobilenet(folder):
    """torchvision, with the weights in a second file and the batch axis fixed: the defaults of torch.onnx.export."""
    network = lively(torchvision.models.mobilenet_v3_small(num_classes=1000))
    prepare = rgb(torchvision.transforms._presets.ImageClassification(crop_size=224))
    path = export(network, EXAMPLE, folder / "mobilenet_v3_small.onnx")
    return Exported(path, [labels(folder, 1000), "--preset=torchvision"], network, prepare, 224, names(1000))


def resnet(folder):
    """torchvision, by the older exporter, with another size before the crop."""
    network = lively(torchvision.models.resnet18(num_classes=10))
    prepare = rgb(transforms.Compose([
        transforms.Resize(232), transforms.CenterCrop(224), transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]))
    path = export(network, EXAMPLE, folder / "resnet18.onnx", dynamo=False)
    return Exported(path, [labels(folder, 10), "--preset=torchvision", "--resize=232"], network, prepare, 224, names(10), cam=True)


def timm_vit(folder):
    """timm, with its config.json."""
    network = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=12)
    nn.init.normal_(network.head.weight)
    lively(network)
    config = timm.data.resolve_model_data_config(network)
    prepare = rgb(timm.data.create_transform(**config, is_training=False))
    path = export(network, EXAMPLE, folder / "model.onnx", external_data=False)
    timm.models._hub.save_config_for_hf(network, folder / "config.json", model_config={"label_names": names(12)})
    return Exported(path, [], network, prepare, 224, names(12))


class Pixels(nn.Module):
    """Takes uint8 pixels [batch,height,width,3] and returns probabilities."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, image):
        return torch.softmax(self.network(image.permute(0, 3, 1, 2).float() / 127.5 - 1), 1)


def pixels(folder):
    """A network that includes the normalization, with a free batch axis."""
    network = Pixels(lively(torchvision.models.mobilenet_v3_small(num_classes=5))).eval()
    prepare = rgb(lambda image: torch.from_numpy(np.array(image.resize((224, 224), Image.Resampling.BICUBIC))))
    batch = torch.export.Dim("batch")
    path = export(network, torch.zeros(2, 224, 224, 3, dtype=torch.uint8), folder / "pixels.onnx", dynamic_shapes=({0: batch},), external_data=False)
    return Exported(path, [labels(folder, 5), "--fit=stretch", "--filter=bicubic"], network, prepare, 224, names(5))


class Logits(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values):
        return self.model(pixel_values).logits


def processed(processor):
    """The pipeline of transformers: load_image applies the EXIF orientation and converts to RGB."""
    def prepare(image):
        return processor(ImageOps.exif_transpose(image).convert("RGB"), return_tensors="pt")["pixel_values"][0]
    return prepare


def transformers_model(configuration, kind, processor):
    def build(folder):
        torch.manual_seed(1)
        count = 12
        configuration.id2label = dict(enumerate(names(count)))
        model = kind(configuration)
        edge = configuration.image_size
        lively(Logits(model), (3, edge, edge))
        model.config.save_pretrained(folder)
        processor.save_pretrained(folder)
        path = export(Logits(model).eval(), torch.rand(1, 3, edge, edge), folder / "onnx/model.onnx", input_names=["pixel_values"], output_names=["logits"])
        return Exported(path, [], Logits(model).eval(), processed(processor), edge, names(count))
    return build


small = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64, "intermediate_size": 128}

MODELS = {
    "mobilenet": mobilenet,
    "resnet": resnet,
    "timm-vit": timm_vit,
    "uint8": pixels,
    "vit": transformers_model(transformers.ViTConfig(**small), transformers.ViTForImageClassification, transformers.ViTImageProcessorPil()),
}


def corpus(count=50):
    """Yield (name, PNG file) of odd sizes, shapes and modes, some with an orientation."""
    sizes = [(224, 224), (61, 47), (300, 200), (201, 333), (640, 480), (97, 512), (1, 1), (2, 3), (500, 3), (3, 500), (257, 256), (225, 231), (1023, 767)]
    modes = ["RGB", "RGBA", "L", "LA", "P", "1"]
    for i in range(count):
        mode, size = modes[i % len(modes)], sizes[i % len(sizes)]
        options = {}
        if i % 5 == 4:
            exif = Image.Exif()
            exif[0x0112] = 2 + i % 7
            options["exif"] = exif
        file = io.BytesIO()
        drawn(mode, size, seed=i).save(file, "PNG", **options)
        yield f"{i:02}-{mode}-{size[0]}x{size[1]}", file.getvalue()


def save_sample(path, outputs, images):
    np.savez_compressed(path, outputs=outputs, **{f"image{i}": np.frombuffer(file, np.uint8) for i, file in enumerate(images)})


if __name__ == "__main__":
    import sys

    folder = pathlib.Path(sys.argv[1])
    for name in sys.argv[2:] or MODELS:
        exported = MODELS[name](folder / name)
        files = [file for _, file in corpus()]
        save_sample(folder / name / "sample.npz", exported.outputs(files), files)
        (folder / name / "arguments.json").write_text(json.dumps([str(exported.path), *exported.arguments]))
