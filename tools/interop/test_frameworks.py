"""Models of torchvision, timm and transformers: imported, verified and served, they agree with their framework's own pipeline.

Each has random weights. HTTP gets the image files, and the Open Inference Protocol the tensors that the framework has made of them.
"""

import io
import json
import re
import subprocess
import time

import numpy as np
import pytest
import requests
import tritonclient.grpc
import tritonclient.http
from PIL import Image

import frameworks
from conftest import ROOT

TOLERANCE = 1e-4  # of a probability
BATCH = 10


def softmax(scores):
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.fixture(scope="session")
def corpus():
    return dict(frameworks.corpus())


class Imported:
    """A model that has been exported and imported."""

    def __init__(self, name, folder, files):
        self.exported = frameworks.MODELS[name](folder)
        self.outputs = self.exported.outputs(files)
        # The outputs of the network in Pixels are probabilities already.
        self.kind = "probabilities" if name == "uint8" else "logits"
        self.probabilities = self.outputs if self.kind == "probabilities" else softmax(self.outputs)
        frameworks.save_sample(folder / "sample.npz", self.outputs, files)
        self.path = folder / "imported.onnx"
        command = [ROOT / "bin/trainer", "model", "import", self.exported.path, *self.exported.arguments,
                   f"--verify={folder / 'sample.npz'}", "-o", self.path]
        run = subprocess.run(command, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout + run.stderr
        self.report = run.stdout
        show = subprocess.run([ROOT / "bin/trainer", "model", "show", "--json", self.path], capture_output=True, text=True, check=True)
        self.card = json.loads(show.stdout)


@pytest.fixture(scope="session")
def models(tmp_path_factory, corpus):
    folder = tmp_path_factory.mktemp("frameworks")
    files = list(corpus.values())
    return {name: Imported(name, folder / name, files) for name in frameworks.MODELS if not (folder / name).mkdir()}


@pytest.fixture(scope="session")
def addresses(models, start):
    server = start(*[f"--model={name}={model.path}" for name, model in models.items()], "--grpc-addr=127.0.0.1:0")
    deadline = time.monotonic() + 30
    while not (match := re.search(r"gRPC on ([0-9.:]+)", server.log)):
        assert time.monotonic() < deadline, server.log
        time.sleep(0.01)
    return {"http": server.url.removeprefix("http://"), "grpc": match[1]}


@pytest.fixture(params=list(frameworks.MODELS))
def name(request):
    return request.param


def test_import(models, name):
    model = models[name]
    assert "verified 50 images" in model.report and "agrees for 50" in model.report, model.report
    assert "one image per run" not in model.report, "the batch axis isn't free"
    card, exported = model.card, model.exported
    assert (card["preprocessing"]["width"], card["preprocessing"]["height"]) == (exported.size, exported.size)
    labels = [f"{c}#{i}" if exported.classes.count(c) > 1 else c for i, c in enumerate(exported.classes)]
    assert card["classes"] == labels
    assert card["outputKind"] == model.kind
    assert ("classActivationMap" in card) == exported.cam
    assert card["embedding"]["shape"][0] > 1


def test_predict(models, name, addresses, corpus):
    model = models[name]
    labels = model.card["classes"]
    for (image, file), want in zip(corpus.items(), model.probabilities):
        response = requests.post(f"http://{addresses['http']}/predict?model={name}&top={len(labels)}", data=file, timeout=60)
        assert response.status_code == 200, f"{image}: {response.text}"
        body = response.json()
        assert body["modelName"] == name
        got = np.array([body["probabilities"][label] for label in labels])
        assert np.abs(got - want).max() <= TOLERANCE, f"{image}: differs by {np.abs(got - want).max():.2g}"
        assert body["probability"] == max(body["probabilities"].values())
        assert want[labels.index(body["label"])] >= want.max() - TOLERANCE


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_tensors(models, name, addresses, corpus, protocol):
    model = models[name]
    library = {"http": tritonclient.http, "grpc": tritonclient.grpc}[protocol]
    files = list(corpus.values())[:20]
    tensors = np.stack([model.exported.prepare(Image.open(io.BytesIO(file))).numpy() for file in files])
    with library.InferenceServerClient(addresses[protocol]) as client:
        for first in range(0, len(files), BATCH):
            batch = tensors[first : first + BATCH]
            tensor = library.InferInput(model.card["input"], batch.shape, "UINT8" if batch.dtype == np.uint8 else "FP32")
            tensor.set_data_from_numpy(batch)
            got = client.infer(name, [tensor]).as_numpy(model.card["output"])
            got = got if model.kind == "probabilities" else softmax(got)
            difference = np.abs(got - model.probabilities[first : first + BATCH]).max()
            assert difference <= TOLERANCE, f"differs by {difference:.2g}"


def test_verify_finds_mistakes(models, tmp_path):
    """A wrong flag makes the import fail, and the message has the right one."""
    model = models["resnet"]
    command = [ROOT / "bin/trainer", "model", "import", model.exported.path, *model.exported.arguments, "--color=bgr",
               f"--verify={model.path.parent / 'sample.npz'}", "-o", tmp_path / "wrong.onnx"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 1
    assert "with --color=rgb" in run.stderr, run.stderr
    assert not (tmp_path / "wrong.onnx").exists()
