"""Triton's clients against the server, over HTTP and gRPC."""

import concurrent.futures
import queue
import re
import time

import grpc as grpcio
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from google.protobuf import descriptor_pb2, empty_pb2, unknown_fields
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException

MODEL = "fakeart"


@pytest.fixture(scope="module")
def addresses(start_server):
    """The addresses for HTTP and for gRPC of a server."""
    server = start_server("--grpc-addr=127.0.0.1:0")
    deadline = time.monotonic() + 10
    while not (match := re.search(r"gRPC on ([0-9.:]+)", server.log)):
        assert time.monotonic() < deadline, server.log
        time.sleep(0.01)
    return {"http": server.url.removeprefix("http://"), "grpc": match[1]}


@pytest.fixture(scope="module", params=["http", "grpc"])
def protocol(request):
    return request.param


@pytest.fixture(scope="module")
def library(protocol):
    """The module of the client."""
    return {"http": tritonclient.http, "grpc": tritonclient.grpc}[protocol]


@pytest.fixture(scope="module")
def client(library, protocol, addresses):
    with library.InferenceServerClient(addresses[protocol]) as client:
        yield client


@pytest.fixture(scope="module")
def document(protocol):
    """A function that calls a method of the client and returns the response as JSON."""
    options = {"grpc": {"as_json": True}, "http": {}}[protocol]
    return lambda method, *arguments: method(*arguments, **options)


def images(count):
    return np.random.default_rng(count).random((count, 3, 32, 32), dtype=np.float32)


def inputs(library, values, **options):
    tensor = library.InferInput("input", values.shape, "FP32")
    tensor.set_data_from_numpy(values, **options)
    return [tensor]


@pytest.fixture(scope="module")
def logits(addresses):
    """The logits of images(3), requested one image at a time in JSON."""
    with tritonclient.http.InferenceServerClient(addresses["http"]) as client:
        return np.concatenate([
            client.infer(MODEL, inputs(tritonclient.http, one[None], binary_data=False)).as_numpy("logit") for one in images(3)
        ])


def test_state(client, document):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    version = document(client.get_model_metadata, MODEL)["versions"][0]
    assert client.is_model_ready(MODEL, version)


def test_metadata(client, document):
    server = document(client.get_server_metadata)
    assert server["name"] == "fakeart"
    assert {"binary_tensor_data", "model_configuration", "statistics"} <= set(server["extensions"])
    model = document(client.get_model_metadata, MODEL)
    assert model["name"] == MODEL
    assert [t["name"] for t in model["outputs"]] == ["logit", "embedding"]
    assert [int(d) for d in model["inputs"][0]["shape"]] == [-1, 3, 32, 32]


def test_config(client, document, protocol):
    config = document(client.get_model_config, MODEL)
    config = config["config"] if protocol == "grpc" else config
    assert config["name"] == MODEL
    assert config["max_batch_size"] == 128
    assert [int(d) for d in config["input"][0]["dims"]] == [3, 32, 32]
    assert config["input"][0]["data_type"] == "TYPE_FP32"
    assert config["backend"] == "onnxruntime"


def test_statistics(client, library, document):
    def count():
        for arguments in [(MODEL,), ()]:
            statistics = document(client.get_inference_statistics, *arguments)["model_stats"]
            assert [s["name"] for s in statistics] == [MODEL]
        return int(statistics[0].get("inference_count", 0))

    before = count()
    client.infer(MODEL, inputs(library, images(3)))
    assert count() == before + 3


def test_index(client, document, protocol):
    index = document(client.get_model_repository_index)
    index = index.get("models", []) if protocol == "grpc" else index
    assert [(m["name"], m["state"]) for m in index] == [(MODEL, "READY")]


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_infer(client, library, protocol, compression, logits):
    options = {
        "grpc": {"compression_algorithm": compression},
        "http": {"request_compression_algorithm": compression, "response_compression_algorithm": compression},
    }[protocol]
    result = client.infer(MODEL, inputs(library, images(3)), request_id="7", **options)
    np.testing.assert_allclose(result.as_numpy("logit"), logits, rtol=1e-4, atol=1e-4)
    assert result.as_numpy("embedding").shape[0] == 3
    response = result.get_response()
    assert (response["id"] if protocol == "http" else response.id) == "7"


@pytest.mark.parametrize("binary_input", [True, False])
@pytest.mark.parametrize("binary_output", [True, False])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_http_data(addresses, binary_input, binary_output, compression, logits):
    library = tritonclient.http
    with library.InferenceServerClient(addresses["http"]) as client:
        result = client.infer(
            MODEL, inputs(library, images(3), binary_data=binary_input),
            outputs=[library.InferRequestedOutput("logit", binary_data=binary_output)],
            request_compression_algorithm=compression, response_compression_algorithm=compression,
        )
    np.testing.assert_allclose(result.as_numpy("logit"), logits, rtol=1e-4, atol=1e-4)
    assert result.as_numpy("embedding") is None


def test_async(addresses, logits):
    with tritonclient.http.InferenceServerClient(addresses["http"], concurrency=4) as client:
        requests = [client.async_infer(MODEL, inputs(tritonclient.http, images(3))) for _ in range(20)]
        for request in requests:
            np.testing.assert_allclose(request.get_result().as_numpy("logit"), logits, rtol=1e-4, atol=1e-4)
    with tritonclient.grpc.InferenceServerClient(addresses["grpc"]) as client:
        results = queue.Queue()
        for _ in range(20):
            client.async_infer(MODEL, inputs(tritonclient.grpc, images(3)), callback=lambda result, error: results.put((result, error)))
        for _ in range(20):
            result, error = results.get(timeout=30)
            assert error is None
            np.testing.assert_allclose(result.as_numpy("logit"), logits, rtol=1e-4, atol=1e-4)


def test_stream(addresses, logits):
    with tritonclient.grpc.InferenceServerClient(addresses["grpc"]) as client:
        results = queue.Queue()
        client.start_stream(callback=lambda result, error: results.put((result, error)))
        client.async_stream_infer(MODEL, inputs(tritonclient.grpc, images(3)))
        client.async_stream_infer("other", inputs(tritonclient.grpc, images(3)))
        client.async_stream_infer(MODEL, inputs(tritonclient.grpc, images(3)))
        responses = [results.get(timeout=30) for _ in range(3)]
        client.stop_stream()
    for result, error in (responses[0], responses[2]):
        assert error is None
        np.testing.assert_allclose(result.as_numpy("logit"), logits, rtol=1e-4, atol=1e-4)
    assert "other" in str(responses[1][1])


def test_threads(addresses, logits):
    with tritonclient.grpc.InferenceServerClient(addresses["grpc"]) as client, concurrent.futures.ThreadPoolExecutor(8) as pool:
        for result in pool.map(lambda _: client.infer(MODEL, inputs(tritonclient.grpc, images(3))), range(40)):
            np.testing.assert_allclose(result.as_numpy("logit"), logits, rtol=1e-4, atol=1e-4)


def test_errors(client, library, protocol):
    def status_of(call):
        with pytest.raises(InferenceServerException) as caught:
            call()
        assert caught.value.message()
        return caught.value.status()

    not_found, invalid = {"http": ("404", "400"), "grpc": ("StatusCode.NOT_FOUND", "StatusCode.INVALID_ARGUMENT")}[protocol]
    assert status_of(lambda: client.infer("other", inputs(library, images(1)))) == not_found
    assert status_of(lambda: client.get_model_config("other")) == not_found
    assert status_of(lambda: client.get_inference_statistics(MODEL, "1")) == not_found
    assert status_of(lambda: client.infer(MODEL, inputs(library, images(1)[:, :, :, :31]))) == invalid
    if protocol == "grpc":
        assert status_of(lambda: client.load_model(MODEL)) == "StatusCode.UNIMPLEMENTED"
        assert status_of(lambda: client.infer(MODEL, inputs(library, images(128)), client_timeout=1e-4)) == "StatusCode.DEADLINE_EXCEEDED"


def members(data, *path):
    """Return the values of the fields with these numbers, one per level, in an encoded message."""
    fields = unknown_fields.UnknownFieldSet(empty_pb2.Empty.FromString(data))
    values = [f.data for f in fields if f.field_number == path[0]]
    return values if len(path) == 1 else [v for value in values for v in members(value, *path[1:])]


def test_published_service(addresses):
    """The service that reflection describes is part of the published one, with the same numbers and types."""
    symbol = b"inference.GRPCInferenceService"
    with grpcio.insecure_channel(addresses["grpc"]) as channel:
        reflect = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        response = next(reflect(iter([b"\x22" + bytes([len(symbol)]) + symbol])))
    described = descriptor_pb2.FileDescriptorProto.FromString(members(response, 4, 1)[0])

    published = {"messages": {}, "enums": {}, "methods": {}}
    for module in (service_pb2, model_config_pb2):
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        published["messages"].update((m.name, m) for m in file.message_type)
        published["enums"].update((e.name, e) for e in file.enum_type)
        published["methods"].update((m.name, m) for s in file.service for m in s.method)

    def values(enum):
        return {(v.name, v.number) for v in enum.value}

    def check(ours, theirs):
        fields = {f.name: (f.number, f.type, f.label, f.type_name) for f in theirs.field}
        for f in ours.field:
            assert (f.number, f.type, f.label, f.type_name) == fields[f.name], f"{ours.name}.{f.name}"
        nested = {m.name: m for m in theirs.nested_type}
        for message in ours.nested_type:
            check(message, nested[message.name])
        enums = {e.name: e for e in theirs.enum_type}
        for enum in ours.enum_type:
            assert values(enum) <= values(enums[enum.name])

    assert described.package == "inference"
    assert [s.name for s in described.service] == ["GRPCInferenceService"]
    for message in described.message_type:
        check(message, published["messages"][message.name])
    for enum in described.enum_type:
        assert values(enum) <= values(published["enums"][enum.name])
    for method in described.service[0].method:
        assert method == published["methods"][method.name] or str(method).replace(" options {\n}\n", "") == str(published["methods"][method.name])
    assert len(described.message_type) > 20
