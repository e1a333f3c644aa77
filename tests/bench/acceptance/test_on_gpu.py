"""What steps do on a GPU, over the fake of CUDA: mini's graphs by ONNX Runtime and as plans."""

from __future__ import annotations

import pytest

from bench.acceptance import parity, repeat
from bench.acceptance.steps import NotDone, Setting
from export import onnx_export
from tests.backends.engines import fake_onnx_runtime as fake

SETTING = Setting("nothing", "", "")  # PyTorch stays on the CPU
ENGINE = "onnxruntime-cuda"


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> fake.Gpu:
    return fake.Gpu().install(monkeypatch)


@pytest.mark.parametrize("graph", ["mask_encoder", "flow_masked", "vae_decoder"])
def test_graphs_are_compared(graph: str) -> None:
    rows = parity._graph(SETTING, "mini", ENGINE, "fp32", graph)
    assert [row["of"] for row in rows] == ["8x8x8", "8x16x8"]
    assert all(0 < row["difference"] <= row["allowed"] for row in rows)


@pytest.mark.slow
def test_volumes_are_compared() -> None:
    rows = parity._volumes(SETTING, "mini", ENGINE, "fp32", (32, 32, 32))
    assert [row["of"] for row in rows] == ["image alone", "from a mask"]


def test_decodes_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeat, "TIMES", 2)
    rows = repeat._decode(SETTING, "mini", ENGINE, "fp32")
    assert [row["different volumes"] for row in rows] == [1, 1, 1, 1]
    assert [row["slabs"] for row in rows] == [1, 2, 8, 8]


def test_a_difference_that_is_too_large_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(onnx_export.TOLERANCE, "fp32", 1e-12)
    with pytest.raises(ValueError, match="the difference from MONAI is"):
        parity._graph(SETTING, "mini", ENGINE, "fp32", "flow")


def test_what_was_not_exported_is_not_done() -> None:
    with pytest.raises(NotDone, match=r"mini\.flow was not exported for tensorrt in fp16"):
        parity._graph(SETTING, "mini", "tensorrt", "fp16", "flow")
