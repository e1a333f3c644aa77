"""Which engine runs where: every row of the table in docs/explanation/architecture.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.engines import choice, cuda, onnx_runtime, openvino
from backends.engines.choice import ONNX_RUNTIME, OPENVINO, OPENVINO_BFLOAT16, TENSORRT, Choice
from tests.backends.engines import fake_gpu, flows
from tests.backends.engines.fake_onnx_runtime import Gpu

FORCED = {"engine": "onnxruntime"}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return Gpu().install(monkeypatch)


@pytest.fixture
def onnx(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(flows.FLOW.read_bytes())
    return tmp_path


@pytest.fixture
def onnx_and_plan(gpu: Gpu, onnx: Path) -> Path:
    fake_gpu.write_plan(flows.FLOW, onnx / "model.plan")
    return onnx


def test_on_a_cpu(onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "gpus", lambda: [])
    assert choice.choose(onnx, None, {}) == Choice(OPENVINO, None)
    assert choice.choose(onnx, None, FORCED) == Choice(ONNX_RUNTIME, None)


def test_a_gpu_that_triton_did_not_assign_is_reported(
    onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "gpus", lambda: ["NVIDIA L4"])
    unused = "GPUs here: 0 (NVIDIA L4); the model was placed on the CPU"
    assert choice.choose(onnx, None, {}) == Choice(OPENVINO, None, unused)


def test_a_plan_for_the_gpu_comes_first(onnx_and_plan: Path) -> None:
    assert choice.choose(onnx_and_plan, 0, {}) == Choice(TENSORRT, 0)
    assert choice.choose(onnx_and_plan, 0, FORCED) == Choice(ONNX_RUNTIME, 0)


def test_with_a_plan_for_another_gpu_onnx_runtime_is_chosen(onnx_and_plan: Path) -> None:
    description = onnx_and_plan / "model.plan.json"
    description.write_text(description.read_text().replace("8.6", "9.0"))
    assert choice.choose(onnx_and_plan, 0, {}) == Choice(ONNX_RUNTIME, 0)
    (onnx_and_plan / "model.onnx").unlink()
    # TensorRT's error says which plan is missing.
    assert choice.choose(onnx_and_plan, 0, {}) == Choice(TENSORRT, 0)
    assert choice.choose(onnx_and_plan, None, {}) == Choice(TENSORRT, 0)
    for device in (0, None):
        with pytest.raises(ValueError, match="engine is onnxruntime, but there is no ONNX file"):
            choice.choose(onnx_and_plan, device, FORCED)


def test_without_a_provider_openvino_is_chosen_with_the_reason(
    onnx: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choice.choose(onnx, 0, {}) == Choice(ONNX_RUNTIME, 0)

    def missing() -> None:
        raise ValueError("onnxruntime is built for the CPU")

    monkeypatch.setattr(onnx_runtime, "expect_provider", missing)
    unused = "GPU 0: onnxruntime is built for the CPU"
    assert choice.choose(onnx, 0, {}) == Choice(OPENVINO, None, unused)
    with pytest.raises(ValueError, match="built for the CPU"):
        choice.choose(onnx, 0, FORCED)


def test_another_engine_is_refused(onnx: Path) -> None:
    expected = r"^parameter engine is 'abacus'; onnxruntime, openvino-bfloat16, or no such"
    with pytest.raises(ValueError, match=expected):
        choice.choose(onnx, None, {"engine": "abacus"})


def test_bfloat16_is_chosen_where_the_processor_has_it(
    onnx: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = {"engine": "openvino-bfloat16"}
    monkeypatch.setattr(openvino, "has_bfloat16", lambda: True)
    assert choice.choose(onnx, None, parameters) == Choice(OPENVINO_BFLOAT16, None)
    unused = "GPU 1: parameter engine is openvino-bfloat16"
    assert choice.choose(onnx, 1, parameters) == Choice(OPENVINO_BFLOAT16, None, unused)
    with pytest.raises(ValueError, match="engine is openvino-bfloat16, but there is no ONNX file"):
        choice.choose(tmp_path_factory.mktemp("empty"), None, parameters)
    monkeypatch.setattr(openvino, "has_bfloat16", lambda: False)
    with pytest.raises(ValueError, match="openvino-bfloat16, but this processor has no bfloat16"):
        choice.choose(onnx, None, parameters)
