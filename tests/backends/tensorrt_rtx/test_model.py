"""The TensorRT-RTX backend: what runs without a GPU, and the rest where there is one."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tritonclient.grpc as grpc

from backends.engines import tensorrt
from export import tensorrt_plans, tensorrt_process
from server import host
from server.address import Address
from server.control import ControlError
from server.settings import Settings
from server.supervisor import running
from tests.export import decoder_onnx
from tests.server.tiny import ONE, X_TO_Y, write_model, write_onnx

ROOT = Path(__file__).resolve().parents[3]
LATENT_TO_IMAGE = """
input [{ name: "latent" data_type: TYPE_FP32 dims: [1, 4, -1, -1, -1] }]
output [{ name: "image" data_type: TYPE_FP32 dims: [1, 1, -1, -1, -1] }]
"""
GPU = tensorrt_process.gpu_capability()
CAPABILITIES = [GPU] if GPU else ["8.6", "12.0"]


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """Return the plan of a decoder, for this machine's GPU, or for two others."""
    path = tmp_path_factory.mktemp("plan") / "model.plan"
    profile = {"latent": ((1, 4, 8, 8, 8), (1, 4, 16, 16, 16), (1, 4, 32, 32, 32))}
    tensorrt_plans.build(
        decoder_onnx.write(path.with_suffix(".onnx")), path, "tensorrt-rtx", profile, CAPABILITIES
    )
    return path


@pytest.fixture(scope="module")
def backend():
    """Return the module that runs plans."""
    return tensorrt


@pytest.fixture(scope="module")
def repository(tmp_path_factory, plan):
    """Return a model `square` that needs no GPU, and the engine `decoder`."""
    folder = tmp_path_factory.mktemp("repository")
    version = write_model(folder, "square", f'backend: "onnxruntime"\n{ONE}{X_TO_Y}')
    write_onnx(version / "model.onnx", [onnx.helper.make_node("Mul", ["x", "x"], ["y"])], ["y"])
    cache = f'parameters {{ key: "runtime_cache" value {{ string_value: "{folder}/cache" }} }}'
    config = f'backend: "tensorrt_rtx"\n{ONE}{LATENT_TO_IMAGE}{cache}'
    version = write_model(folder, "decoder", config)
    for path in (plan, tensorrt_plans.description_path(plan)):
        shutil.copy(path, version)
    return folder


@pytest.fixture(scope="module")
def triton(repository):
    """Return a server that has loaded `square`, and loads other models on request."""
    address = Address("127.0.0.1", 0, 0, 0, 0)
    models = repository, ["square"], address, 60, 10
    settings = Settings(host.find_triton(), ROOT / "backends", *models)
    with address.reserved() as address, running(settings, address) as (server, _):
        server.client = grpc.InferenceServerClient(f"127.0.0.1:{address.grpc}")
        try:
            deadline = time.monotonic() + 60
            while not server.control.ready():
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield server
        finally:
            server.end(10)


def infer(triton, model, **tensors):
    inputs = []
    for name, array in tensors.items():
        inputs.append(grpc.InferInput(name, list(array.shape), "FP32"))
        inputs[-1].set_data_from_numpy(array)
    return triton.client.infer(model, inputs, client_timeout=60)


@pytest.mark.skipif(GPU is not None, reason="this machine has a GPU")
def test_without_a_gpu_a_model_does_not_load_and_the_server_goes_on_serving(triton, repository):
    with pytest.raises(ControlError) as caught:
        triton.control.load("decoder")
    message = str(caught.value)
    assert "decoder: an NVIDIA GPU and its driver are needed: cuda" in message
    assert "Traceback" not in message and str(repository) not in message
    assert infer(triton, "square", x=np.array([3], np.float32)).as_numpy("y") == 9
    assert triton.control.states() == {"square": "READY", "decoder": "UNAVAILABLE"}


@pytest.mark.skipif(GPU is None, reason="this machine has no GPU")
def test_the_image_is_that_of_onnx_runtime_and_kernels_are_saved(triton, repository):
    triton.control.load("decoder")
    session = onnxruntime.InferenceSession(decoder_onnx.write(repository / "decoder.onnx"))
    for shape in ((8, 8, 8), (16, 24, 8), (8, 8, 8)):
        latent = np.random.default_rng(1).normal(size=(1, 4, *shape)).astype(np.float32)
        image = infer(triton, "decoder", latent=latent).as_numpy("image")
        (expected,) = session.run(["image"], {"latent": latent})
        assert np.linalg.norm(image - expected) < 1e-4 * np.linalg.norm(expected)
    with pytest.raises(grpc.InferenceServerException, match=r"latent: \[.* is not within"):
        infer(triton, "decoder", latent=np.zeros((1, 4, 40, 8, 8), np.float32))
    assert [path.suffix for path in (repository / "cache").iterdir()] == [".cache"]


def test_a_plan_for_the_device_alone_is_preferred(backend, tmp_path):
    with pytest.raises(ValueError, match=r"8\.9 needs model_sm89\.plan or model\.plan, .*: none$"):
        backend.select_plan(tmp_path, "model.plan", "8.9")
    (tmp_path / "model_sm86.plan").touch()
    with pytest.raises(ValueError, match=r"the plans here are: model_sm86\.plan$"):
        backend.select_plan(tmp_path, "model.plan", "8.9")
    (tmp_path / "model.plan").touch()
    assert backend.select_plan(tmp_path, "model.plan", "8.9").name == "model.plan"
    (tmp_path / "model_sm89.plan").touch()
    assert backend.select_plan(tmp_path, "model.plan", "8.9").name == "model_sm89.plan"
    assert backend.select_plan(tmp_path, "model.plan", "8.6").name == "model_sm86.plan"
    assert backend.select_plan(tmp_path, "model.plan", "12.0").name == "model.plan"


def test_the_description_of_export_is_read(backend, plan):
    description = backend.describe(plan, CAPABILITIES[-1])
    assert description["version"] == importlib.import_module("tensorrt_rtx").__version__
    assert backend.numpy_type(description["inputs"]["latent"]["type"]) is np.float32
    for kind, expected in (("FP16", np.float16), ("INT64", np.int64), ("UINT8", np.uint8)):
        assert backend.numpy_type(kind) is expected
    with pytest.raises(
        ValueError, match=r"this GPU has 7\.5: export with --compute-capability 7\.5"
    ):
        backend.describe(plan, "7.5")


def test_a_plan_without_its_description_is_refused(backend, plan, tmp_path):
    copy = Path(shutil.copy(plan, tmp_path))
    with pytest.raises(ValueError, match=r"^model\.plan\.json, .*: No such file or directory$"):
        backend.describe(copy, CAPABILITIES[0])
    description = json.loads(tensorrt_plans.description_path(plan).read_text())
    strange = {"latent": {"type": "COLOUR", "min": [1], "max": [1]}}
    for damaged in ("{", "[]", "{}", json.dumps(description | {"inputs": strange})):
        tensorrt_plans.description_path(copy).write_text(damaged)
        with pytest.raises(ValueError, match=r"^model\.plan\.json is damaged; export the model"):
            backend.describe(copy, CAPABILITIES[0])
    tensorrt_plans.description_path(copy).write_text(json.dumps(description | {"target": "onnx"}))
    with pytest.raises(ValueError, match=r"is for onnx, not for tensorrt-rtx or tensorrt$"):
        backend.describe(copy, CAPABILITIES[0])


def test_shapes_are_checked_against_the_plan(backend, plan):
    inputs = backend.describe(plan, CAPABILITIES[0])["inputs"]
    backend.check(inputs, {"latent": (1, 4, 8, 32, 17)})
    for shape in ((1, 4, 8, 8, 33), (1, 4, 7, 8, 8), (2, 4, 8, 8, 8), (1, 4, 8, 8)):
        with pytest.raises(ValueError, match=r"latent: \[.*\] is not within \[1, 4, 8, 8, 8\] to"):
            backend.check(inputs, {"latent": shape})
    with pytest.raises(ValueError, match="latent: missing"):
        backend.check(inputs, {})
    with pytest.raises(ValueError, match="z: not one of the engine's inputs, latent"):
        backend.check(inputs, {"latent": (1, 4, 8, 8, 8), "z": (1,)})


def test_a_missing_library_is_named(backend, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)  # as if it were not installed
    with pytest.raises(ValueError, match=r"lacks tensorrt_rtx .*: pip install tensorrt-rtx-cu13"):
        backend.python_module(*backend.MODULES["tensorrt-rtx"])


def test_kernels_are_saved_in_the_folder_of_the_parameter(backend, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert str(backend.cache_folder({})) == "/var/cache/maisi-triton"
    assert str(backend.cache_folder({"runtime_cache": "/data"})) == "/data"
    assert backend.cache_folder({"runtime_cache": ""}) is None
    path = tmp_path / "new" / "a.cache"
    for data in (b"1", b"22"):
        backend.write(path, data)
        assert path.read_bytes() == data
    backend.write(path / "below a file", b"3")
    assert [entry.name for entry in path.parent.iterdir()] == ["a.cache"]
