"""Engines of OpenVINO: neither a failed run nor an end in another thread affects what follows."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from openvino import opset13 as op

from backends.engines import channels_last
from backends.engines.openvino import Engine, has_bfloat16
from tests.backends.engines import flows
from tests.conftest import ROOT

CODE = """
import signal, sys, threading
from backends.engines.openvino import Engine
signals = []
signal.signal(signal.SIGUSR1, lambda *_: signals.append(1))
engines = [Engine(sys.argv[1])]
thread = threading.Thread(target=engines.clear)
thread.start()
thread.join()
signal.raise_signal(signal.SIGUSR1)
print(len(signals))
"""


@pytest.fixture(autouse=True)
def enough_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepare a call also on a machine that is short of memory."""
    monkeypatch.setattr("backends.engines.openvino.is_free", lambda size: size < 1 << 40)


def test_signals_come_after_an_engine_ended_in_another_thread(tmp_path: Path) -> None:
    x = op.parameter([1, 4], np.float32, name="x")
    openvino.save_model(openvino.Model([op.relu(x)], [x]), tmp_path / "relu.xml")
    command = [sys.executable, "-c", CODE, str(tmp_path / "relu.xml")]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (process.returncode, process.stdout) == (0, "1\n"), process.stderr


@pytest.fixture(scope="module")
def flow() -> Engine:
    return Engine(flows.FLOW)


def add_one(folder: Path) -> Engine:
    x = op.parameter([-1, 1024], np.float32, name="x")
    model = openvino.Model([op.add(x, op.constant(np.ones(1024, np.float32)))], [x])  # 4 KiB
    openvino.save_model(model, folder / "add.xml", compress_to_fp16=False)
    return Engine(folder / "add.xml")


@pytest.mark.parametrize("kind", flows.WRONG)
def test_a_failed_run_does_not_affect_the_next(flow: Engine, kind: str) -> None:
    expected = {name: array.copy() for name, array in flow(flows.good()).items()}
    wrong = flows.good() | flows.WRONG[kind]
    try:
        flow(wrong)
    except Exception:
        shapes = tuple(wrong[name].shape for name in flow.inputs)
        assert shapes not in flow.compiled, "what failed is compiled again"
    for _ in range(2):
        for name, array in flow(flows.good()).items():
            assert array.tobytes() == expected[name].tobytes()


@pytest.mark.parametrize(("weights", "kept"), [(128 << 20, 16), (3 << 12, 3), (0, 2)])
def test_models_of_the_shapes_used_last_are_kept_as_far_as_their_weights_allow(
    weights: int, kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backends.engines.openvino._WEIGHTS", weights)
    engine = add_one(tmp_path)
    for rows in [*range(1, kept + 1), 1, kept + 1]:
        engine({"x": np.zeros((rows, 1024), np.float32)})
    used = [*range(3, kept + 1), 1, kept + 1]
    assert list(engine.compiled) == [((rows, 1024),) for rows in used]


def test_a_prepared_call_does_not_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = add_one(tmp_path)
    one, three = np.zeros((1, 1024), np.float32), np.zeros((3, 1024), np.float32)
    engine({"x": one})
    engine.prepare({"x": three.shape})
    monkeypatch.setattr(engine, "_compile", None)  # cannot be called
    for array in (one, three):
        assert (engine({"x": array})[engine.outputs[0]] == 1).all()
    engine.prepare({"x": three.shape})  # nothing is left to do


def test_prepared_models_do_not_replace_those_in_use_or_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backends.engines.openvino._WEIGHTS", 0)  # two models are kept
    engine = add_one(tmp_path)

    def kept() -> list[int]:
        return [rows for ((rows, _),) in engine.compiled]

    engine({"x": np.zeros((1, 1024), np.float32)})
    for rows in (2, 3):
        engine.prepare({"x": (rows, 1024)})
    assert kept() == [1, 2]
    engine({"x": np.zeros((4, 1024), np.float32)})  # replaces the one that was used first
    engine.prepare({"x": (3, 1024)})
    assert kept() == [2, 4]
    engine({"x": np.zeros((2, 1024), np.float32)})
    engine.prepare({"x": (4, 1024)})  # is compiled, and kept for this call
    engine.prepare({"x": (3, 1024)})
    assert kept() == [4, 2]
    engine({"x": np.zeros((4, 1024), np.float32)})
    engine.prepare({"x": (3, 1024)})
    assert kept() == [4, 3]


@pytest.mark.parametrize(("weights", "kept"), [(0, 2), (1 << 62, 16)])
def test_an_announcement_without_a_call_expires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: int, kept: int
) -> None:
    monkeypatch.setattr("backends.engines.openvino._WEIGHTS", weights)
    engine = add_one(tmp_path)
    for rows in range(100, 99 + kept):
        engine.prepare({"x": (rows, 1024)})
    assert len(engine.announced) == kept - 1
    for rows in range(1, 1 + 2 * kept):
        engine({"x": np.zeros((rows, 1024), np.float32)})
    assert list(engine.compiled) == [((rows, 1024),) for rows in range(1 + kept, 1 + 2 * kept)]
    engine.prepare({"x": (100, 1024)})
    assert list(engine.announced) == [((100, 1024),)]


def test_compilations_that_have_not_begun_are_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, begun = threading.Event(), []
    engine = add_one(tmp_path)

    def compiled(shapes: Any) -> None:
        begun.append(shapes)
        release.wait(60)

    monkeypatch.setattr(engine, "_compiled", compiled)
    for rows in range(1, 9):
        engine.prepare({"x": (rows, 1024)})
    engine.cancel()
    release.set()
    engine.forget()
    assert len(begun) <= 2 and not engine.compiled
    monkeypatch.undo()
    assert (engine({"x": np.zeros((1, 1024), np.float32)})[engine.outputs[0]] == 1).all()


def test_a_failed_preparation_does_not_fail_the_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = add_one(tmp_path)
    array = np.zeros((1, 1024), np.float32)
    with monkeypatch.context() as failing:
        failing.setattr(engine, "_with_shapes", None)
        engine.prepare({"x": array.shape})
        (future,) = engine.compiled.values()
        assert isinstance(future.exception(), TypeError)
    assert (engine({"x": array})[engine.outputs[0]] == 1).all()
    wrong = np.zeros((1, 3), np.float32)  # the model has 1024 columns
    engine.prepare({"x": wrong.shape})
    with pytest.raises(RuntimeError):
        engine({"x": wrong})
    assert list(engine.compiled) == [((1, 1024),)] and not engine.announced
    monkeypatch.setattr("backends.engines.openvino._AHEAD", 1 << 46)
    engine.prepare({"x": (2, 1024)})  # memory is short
    assert list(engine.compiled) == [((1, 1024),)]


@pytest.mark.skipif(not has_bfloat16(), reason="this processor has no bfloat16")
def test_bfloat16_has_its_rounding_error(flow: Engine) -> None:
    expected = flow(flows.good())["velocity"].copy()
    velocity = Engine(flows.FLOW, bfloat16=True)(flows.good())["velocity"]
    error = np.linalg.norm(velocity - expected) / np.linalg.norm(expected)
    assert velocity.dtype == np.float32
    assert 1e-4 < error < 3e-2  # bfloat16 rounds to 2 ** -9, float32 graphs differ by 1e-6


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """Return a file of a convolution of 64 channels, which is a mean."""
    x = op.parameter([1, 64, -1, -1, -1], np.float32, name="x")
    weight = op.constant(np.ones((64, 64, 3, 3, 3), np.float32) / 1728)
    output = op.convolution(x, weight, [1] * 3, [0] * 3, [0] * 3, [1] * 3)
    openvino.save_model(
        openvino.Model([output], [x]), tmp_path / "conv.xml", compress_to_fp16=False
    )
    return tmp_path / "conv.xml"


@pytest.fixture
def without_winograd(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("Winograd's convolution")

    monkeypatch.setattr("backends.engines.winograd.convolve", refuse)


@pytest.mark.skipif(not has_bfloat16(), reason="this processor has no bfloat16")
@pytest.mark.parametrize("innermost", [False, True])
def test_bfloat16_is_without_winograd(wide: Path, without_winograd: None, innermost: bool) -> None:
    inputs = {"x": np.ones((1, 64, 20, 20, 20), np.float32)}
    with pytest.raises(AssertionError):
        Engine(wide, innermost=innermost)(inputs)
    (output,) = Engine(wide, innermost=innermost, bfloat16=True)(inputs).values()
    np.testing.assert_allclose(output, 1, rtol=1e-2)


def test_a_small_grid_is_without_winograd(wide: Path, without_winograd: None) -> None:
    engine = Engine(wide)
    (output,) = engine({"x": np.ones((1, 64, 18, 18, 18), np.float32)}).values()
    expected = output.copy()
    np.testing.assert_allclose(output, 1, rtol=1e-5)
    with pytest.raises(AssertionError):
        engine({"x": np.ones((1, 64, 19, 18, 18), np.float32)})
    (again,) = engine({"x": np.ones((1, 64, 18, 18, 18), np.float32)}).values()
    np.testing.assert_array_equal(again, expected)


@pytest.mark.parametrize("innermost", [False, True])
def test_outputs_are_written_to_arrays_of_the_target(wide: Path, innermost: bool) -> None:
    engine = Engine(wide, innermost=innermost)
    calls: list[tuple[Any, ...]] = []

    def target(name: str, shape: tuple[int, ...], dtype: Any, innermost: bool) -> Any:
        calls.append((shape, np.dtype(dtype), innermost))
        slab = channels_last.empty(np.empty, (1, 64, 8, *shape[3:]), dtype, innermost)
        slab[...] = -1
        return slab[:, :, 1:-1] if innermost else slab[:, :, :6].copy()

    def inputs(value: float) -> dict[str, Any]:
        return {"x": np.full((1, 64, 8, 6, 5), value, np.float32)}

    (first,) = engine(inputs(1), target).values()
    assert calls == [((1, 64, 6, 4, 3), np.dtype(np.float32), innermost)]
    (second,) = engine(inputs(2), target).values()
    (third,) = (output.copy() for output in engine(inputs(3)).values())
    (fourth,) = engine(inputs(4), lambda *_: None).values()
    engine.release()
    for value, output in enumerate((first, second, third, fourth), 1):
        np.testing.assert_allclose(output, value, rtol=1e-4)


def test_a_failed_subgraph_does_not_affect_the_next_run() -> None:
    subgraph = Engine(
        ROOT / "model_repository" / "mini.vae_decoder" / "1" / "00.onnx", innermost=True
    )
    good = {"x": np.ones((1, 4, 3, 8, 8), np.float32), "inside": np.ones((3, 1, 1), np.float32)}
    expected = subgraph(good)["y"].copy()
    for wrong_inputs in (
        {"inside": np.ones((9, 1, 1), np.float32)},
        {"x": np.ones((1, 5, 3, 8, 8), "f4")},
    ):
        with pytest.raises(RuntimeError):
            subgraph(good | wrong_inputs)
        assert subgraph(good)["y"].tobytes() == expected.tobytes()
