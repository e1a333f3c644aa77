"""Mini's networks in slabs in the real server give the output of MONAI's whole ones."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.grpc as grpc
from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc import model_config_pb2 as pb

from export import graphs, networks, onnx_export, variant
from export.arrays import Array
from export.graphs import Graph
from tests.backends.shortage import short_of_memory
from tests.conftest import PATIENCE, ROOT, Server

MODELS = ROOT / "model_repository"
TYPES = {"f4": "FP32", "u1": "UINT8"}


def write_model(folder: Path, name: str, **parameters: str) -> None:
    """Copy mini's model into another repository, with parameters, for any caller and shape."""
    path = folder / name
    shutil.copytree(MODELS / f"mini.{name.split('-')[0]}", path)
    config = text_format.Parse((path / "config.pbtxt").read_text(), pb.ModelConfig())
    config.name = name
    del config.parameters["network"]
    for key, value in parameters.items():
        config.parameters[key].string_value = value
    (path / "config.pbtxt").write_text(text_format.MessageToString(config))


@pytest.fixture(scope="module")
def spill(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spill")


@pytest.fixture(scope="module")
def server(
    module_server: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory, spill: Path
) -> Server:
    folder = tmp_path_factory.mktemp("slabs")
    for name in ("vae_decoder", "vae_encoder", "mask_encoder"):
        write_model(folder, name)
    limits = {"memory_budget_gb": "0.03", "spill_folder": str(spill)}
    write_model(folder, "vae_decoder-small", **limits)
    write_model(folder, "vae_decoder-bounded", **limits, spill_limit_gb="0.01")
    return module_server(folder)


@pytest.fixture(scope="module")
def mini() -> dict[str, Graph]:
    mini_variant = variant.load("mini")
    loaded = networks.load(mini_variant, ROOT / "export" / "checkpoints")
    return {graph.name: graph for graph in graphs.graphs(mini_variant, loaded)}


def infer(server: Server, model: str, output: str, **inputs: Any) -> Any:
    tensors = []
    for name, array in inputs.items():
        tensors.append(grpc.InferInput(name, list(array.shape), TYPES[array.dtype.str[1:]]))
        tensors[-1].set_data_from_numpy(array)
    with grpc.InferenceServerClient(server.grpc) as client:
        return client.infer(model, tensors, client_timeout=PATIENCE).as_numpy(output)


@pytest.mark.parametrize("sides", [(16, 16, 16), (31, 9, 20)])
@pytest.mark.parametrize("model", ["vae_decoder", "vae_decoder-small"])
def test_a_decoded_volume_is_that_of_the_whole_network(
    server: Server, mini: dict[str, Graph], model: str, sides: tuple[int, ...], spill: Path
) -> None:
    latent = torch.randn(1, 4, *sides, generator=torch.Generator().manual_seed(1))
    (truth,) = onnx_export.evaluate(mini["vae_decoder"].module, {"latent": latent})
    output = infer(server, model, "image", latent=latent.numpy())
    assert output.shape == truth.shape and output.dtype == np.int16
    assert np.abs(output - 1000 * truth.clip(0)).max() < 0.6  # rounded, and a tenth of a level
    assert list(spill.iterdir()) == []


def test_a_volume_that_is_not_finite_is_refused(server: Server) -> None:
    latent = np.full((1, 4, 8, 8, 8), np.nan, np.float32)
    with pytest.raises(grpc.InferenceServerException, match="image: holds NaN or infinite values"):
        infer(server, "vae_decoder", "image", latent=latent)


def test_the_other_networks_too(server: Server, mini: dict[str, Graph]) -> None:
    image = torch.rand(1, 1, 72, 32, 48, generator=torch.Generator().manual_seed(1))
    (truth,) = onnx_export.evaluate(mini["vae_encoder"].module, {"image": image})
    output = infer(server, "vae_encoder", "latent", image=image.numpy())
    assert onnx_export.difference(output, truth) < 1e-5
    ids = torch.tensor([0, 22, 120, 131, 176, 240], dtype=torch.uint8)
    labels = ids[torch.randint(0, 6, (2, 32, 64, 48))]
    (truth,) = onnx_export.evaluate(mini["mask_encoder"].module, {"labels": labels})
    output = infer(server, "mask_encoder", "embedding", labels=labels.numpy())
    assert onnx_export.difference(output, truth) < 1e-5


def test_a_request_beyond_the_limit_of_files_is_refused_and_the_next_one_is_served(
    server: Server, spill: Path
) -> None:
    small, large = (np.zeros((1, 4, *sides), np.float32) for sides in ((8, 8, 8), (31, 9, 20)))
    expected = infer(server, "vae_decoder-bounded", "image", latent=small)
    with pytest.raises(grpc.InferenceServerException) as caught:
        infer(server, "vae_decoder-bounded", "image", latent=large)
    assert caught.value.status() == "StatusCode.UNAVAILABLE"
    assert caught.value.message() == "a file of activations: Disk quota exceeded"
    assert list(spill.iterdir()) == []
    repeated = infer(server, "vae_decoder-bounded", "image", latent=small)
    assert repeated.tobytes() == expected.tobytes()


def anonymous(pid: int) -> int:
    """Return the bytes of a process's anonymous memory, without pages of files."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


def peak_and_growth(server: Server, model: str, latent: Array) -> tuple[int, int]:
    """Return the bytes of memory that a request takes while it runs, and after it."""
    pid, peak, stop = server.stub(model).pid, 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.002):
            peak = max(peak, anonymous(pid))

    base = anonymous(pid)
    watcher = threading.Thread(target=watch)
    watcher.start()
    infer(server, model, "image", latent=latent)
    stop.set()
    watcher.join()
    return peak - base, anonymous(pid) - base


def test_memory_stays_within_the_budget_and_is_freed(server: Server) -> None:
    latent = np.zeros((1, 4, 24, 24, 24), np.float32)
    for model in ("vae_decoder", "vae_decoder-small"):
        infer(server, model, "image", latent=latent)  # compiled for this size, once
    small, growth = peak_and_growth(server, "vae_decoder-small", latent)
    image = latent.nbytes * 8  # the output is in memory twice, beyond the budget
    assert small < 30e6 + 2 * image + 50e6
    assert growth < 80e6
    for _ in range(5):  # again where the watcher was paused and missed the peak
        whole, growth = peak_and_growth(server, "vae_decoder", latent)
        if small < 0.5 * whole > growth:
            break
    assert small < 0.5 * whole > growth


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"labels": np.zeros((1, 30, 32, 32), np.uint8)}, "labels: .*must be multiples of 4"),
        ({"labels": np.zeros((1, 0, 32, 32), np.uint8)}, "labels: .*must be multiples of 4"),
    ],
)
def test_sides_that_do_not_divide_are_refused(
    server: Server, inputs: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(grpc.InferenceServerException, match=sentence):
        infer(server, "mask_encoder", "embedding", **inputs)


def test_a_model_that_cannot_load_says_why(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    sentences = {
        "missing": "03.onnx",
        "damaged": "03.onnx",
        "chainless": "chain.json: No such file",
        "earlier": "chain.json is damaged or of an earlier version; export the model again",
        "greedy": "'much'",
    }
    for name in sentences:
        parameters = {"memory_budget_gb": "much"} if name == "greedy" else {}
        write_model(tmp_path, f"vae_decoder-{name}", **parameters)
    (tmp_path / "vae_decoder-missing" / "1" / "03.onnx").unlink()
    (tmp_path / "vae_decoder-damaged" / "1" / "03.onnx").write_bytes(b"no")
    (tmp_path / "vae_decoder-chainless" / "1" / "chain.json").unlink()
    earlier = tmp_path / "vae_decoder-earlier" / "1" / "chain.json"
    earlier.write_text(earlier.read_text().replace('"subgraphs"', '"stages"'))
    server = start_server(tmp_path, ready=False)
    assert server.process.wait(PATIENCE) == 1
    for name, sentence in sentences.items():
        sentences_logged = [
            line.split(f"vae_decoder-{name}: ", 1)[1]
            for line in server.log.splitlines()
            if f"vae_decoder-{name}: " in line and sentence in line
        ]
        assert sentences_logged, name
        # Triton adds a path of the source to the log alone.
        assert all(str(tmp_path) not in line.split("\\n\\nAt:")[0] for line in sentences_logged)


def test_without_memory_a_request_is_unavailable_and_the_next_one_is_not_affected(
    server: Server, eventually: Callable[..., None]
) -> None:
    latent = np.random.default_rng(0).normal(size=(1, 4, 8, 8, 8)).astype(np.float32)
    expected = infer(server, "vae_decoder", "image", latent=latent)
    pid = server.stub("vae_decoder").pid
    large = np.zeros((1, 4, 2, 96, 96), np.float32)  # does not fit even after other memory is freed
    with short_of_memory(pid), pytest.raises(grpc.InferenceServerException) as caught:
        infer(server, "vae_decoder", "image", latent=large)
    assert caught.value.status() == "StatusCode.UNAVAILABLE"
    message = caught.value.message()
    assert "out of memory: latent [1, 4, 2, 96, 96] was too large" in message
    assert "Traceback" not in message and "/" not in message and "\n" not in message
    attempt = "out of memory; trying slabs of 1 with activations elsewhere"
    eventually(lambda: attempt in server.log)
    assert infer(server, "vae_decoder", "image", latent=latent).tobytes() == expected.tobytes()
    assert server.stub("vae_decoder").pid == pid
