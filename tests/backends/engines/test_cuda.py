"""The driver's library by the name that Triton's Python backend opens, and tensors on a GPU."""

from __future__ import annotations

import ctypes
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.backends.engines import fake_gpu, flows
from tests.conftest import ROOT

SENTENCE = "Triton's Python backend needs libcuda.so for tensors on a GPU (libcuda.so: "


def has_driver_library() -> bool:
    try:
        ctypes.CDLL("libcuda.so")
    except OSError:
        return False
    return True


needs_none = pytest.mark.skipif(has_driver_library(), reason="this machine has libcuda.so")


@needs_none
def test_the_name_with_a_version_is_not_enough(tmp_path: Path) -> None:
    maps = Path("/proc/self/maps").read_text().split()
    library = next(word for word in maps if word.startswith("/") and "/libc.so" in word)
    code = "from backends.engines import cuda; cuda.expect_driver_library()"

    def last_error() -> str:
        environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
        command = [sys.executable, "-c", code]
        process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        return process.stderr.strip().rpartition("ValueError: ")[2]

    (tmp_path / "libcuda.so.1").symlink_to(library)  # any library
    assert last_error().startswith(SENTENCE)
    assert last_error().endswith("link libcuda.so to the driver's libcuda.so.1")
    (tmp_path / "libcuda.so").symlink_to("libcuda.so.1")
    assert last_error() == ""


METRICS: list[float] = []


class TritonModelException(Exception):
    """Triton's."""


class Tensor:
    """Triton's: of numpy, or of memory of a GPU."""

    def __init__(self, name: str, array: np.ndarray) -> None:
        assert isinstance(array, np.ndarray)
        self.tensor_name, self.array, self.on_gpu = name, array, False

    @classmethod
    def from_dlpack(cls, name: str, array: Any) -> Tensor:
        tensor = cls(name, array.view.copy())
        tensor.on_gpu = True
        return tensor

    def name(self) -> str:
        return self.tensor_name

    def is_cpu(self) -> bool:
        return not self.on_gpu

    def as_numpy(self) -> np.ndarray:
        return self.array


def write_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backend: str
) -> tuple[Any, dict[str, str]]:
    """Write a model; return its backend, not yet initialized, and the arguments of `initialize`."""
    family = SimpleNamespace(Metric=lambda labels: SimpleNamespace(set=METRICS.append))
    utilities = SimpleNamespace(
        TritonModelException=TritonModelException,
        Logger=SimpleNamespace(log_warn=print),
        Tensor=Tensor,
        InferenceResponse=lambda tensors: tensors,
        MetricFamily=type("MetricFamily", (), {"GAUGE": 1, "__new__": lambda *_, **__: family}),
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utilities)
    for module in (f"backends.{backend}.model", "backends.engines.network"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    model: Any = importlib.import_module(f"backends.{backend}.model").TritonPythonModel()
    for module in (f"backends.{backend}.model", "backends.engines.network"):
        sys.modules.pop(module, None)
    version = tmp_path / "1"
    version.mkdir()
    fake_gpu.write_plan(flows.FLOW, version / "model.plan")
    if backend == "slabs":
        chain = ROOT / "model_repository" / "mini.vae_decoder" / "1"
        shutil.copytree(chain, version, dirs_exist_ok=True)
        for onnx in version.glob("*.onnx"):
            fake_gpu.write_plan(onnx, onnx.with_suffix(".plan"))
    arguments = {
        "model_name": "a",
        "model_config": '{"parameters": {}, "output": [{"name": "y", "dims": [1]}]}',
        "model_repository": str(tmp_path),
        "model_version": "1",
        "model_instance_kind": "GPU",
        "model_instance_device_id": "1",
    }
    return model, arguments


@needs_none
@pytest.mark.parametrize("backend", ["slabs", "tensorrt_rtx"])
def test_a_model_on_a_gpu_says_at_its_start_that_the_library_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backend: str
) -> None:
    gpu = fake_gpu.Gpu().install(monkeypatch)
    model, arguments = write_model(monkeypatch, tmp_path, backend)
    with pytest.raises(TritonModelException) as caught:
        model.initialize(arguments)
    assert str(caught.value).startswith(f"a: {SENTENCE}")
    monkeypatch.setattr("backends.engines.cuda.ctypes.CDLL", lambda name: None)  # as if it loaded
    model.initialize(arguments)
    assert gpu.contexts > 0 and METRICS.pop() == 1


@pytest.mark.parametrize("backend", ["slabs", "tensorrt_rtx"])
def test_without_shared_memory_of_a_gpu_outputs_are_copies(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backend: str
) -> None:
    fake_gpu.Gpu().install(monkeypatch)
    model, arguments = write_model(monkeypatch, tmp_path, backend)
    monkeypatch.setattr("backends.engines.cuda.ctypes.CDLL", lambda name: None)
    model.initialize(arguments)
    latent = {"latent": np.random.default_rng(3).normal(size=(1, 4, 8, 8, 8)).astype(np.float32)}
    inputs = latent if backend == "slabs" else flows.good()
    names = ["y"] if backend == "slabs" else flows.OUTPUTS
    request = SimpleNamespace(
        inputs=lambda: [Tensor(*item) for item in inputs.items()],
        requested_output_names=lambda: names,
    )
    answers = {}
    for value in ("1", "0"):
        monkeypatch.setenv("MAISI_GPU_TENSORS", value)
        answers[value] = model.answer(request)
        assert [tensor.name() for tensor in answers[value]] == list(names)
        assert [tensor.is_cpu() for tensor in answers[value]] == [value == "0"] * len(names)
    for shared, copied in zip(answers["1"], answers["0"], strict=True):
        assert shared.as_numpy().tobytes() == copied.as_numpy().tobytes()
