"""Engines of TensorRT over a fake of the GPU: failed runs, shapes, and inputs on devices."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.engines import tensorrt
from backends.engines.memory import out_of_memory
from tests.backends.engines import flows
from tests.backends.engines.fake_cupy import Array
from tests.backends.engines.fake_gpu import Gpu, session, write_plan


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return Gpu().install(monkeypatch)


@pytest.fixture
def flow(gpu: Gpu, tmp_path: Path) -> tensorrt.Engine:
    write_plan(flows.FLOW, tmp_path / "model.plan", most=32)
    return tensorrt.Engine(tmp_path, "model.plan", 0, None)


def run(flow: tensorrt.Engine, **changes: Any) -> list[bytes]:
    outputs = flow.run(flows.good() | changes)
    return [outputs[name].view.tobytes() for name in flows.OUTPUTS]  # without a further wait


@pytest.mark.parametrize("failure", ["execute", "allocate", "shape", "kernel"])
def test_a_failed_run_does_not_affect_the_next(
    flow: tensorrt.Engine, gpu: Gpu, failure: str
) -> None:
    expected = run(flow)
    assert run(flow) == expected and gpu.contexts == 1  # one for both runs
    gpu.fail = failure
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        run(flow)
    assert out_of_memory(caught.value) == (failure == "allocate")
    assert run(flow) == expected and gpu.contexts == 2


def test_the_first_run_of_tensorrt_rtx_gives_the_bytes_of_the_next(
    gpu: Gpu, tmp_path: Path
) -> None:
    write_plan(flows.FLOW, tmp_path / "model.plan", most=32, target="tensorrt-rtx")
    flow = tensorrt.Engine(tmp_path, "model.plan", 0, tmp_path / "kernels")
    assert run(flow) == run(flow)
    kernels = pytest.importorskip("tensorrt_rtx").DynamicShapesKernelSpecializationStrategy
    assert "EAGER" in kernels.__members__  # as the fake has it


@pytest.mark.parametrize("offset", [0, 256, 64])
def test_outputs_are_written_to_aligned_arrays_of_the_target(
    flow: tensorrt.Engine, gpu: Gpu, offset: int
) -> None:
    targets = []

    def target(name: str, shape: tuple[int, ...], dtype: Any, innermost: bool) -> Array:
        block = gpu.empty((math.prod(shape) + 64,), dtype).block
        bytes_of_target = block.segment[offset : offset + 4 * math.prod(shape)]
        targets.append(Array(gpu, block, bytes_of_target.view(dtype).reshape(shape)))
        return targets[-1]

    expected = run(flow)
    with flow.stream:
        outputs = flow.enqueue(flows.good(), target)
    flow.stream.synchronize()
    assert [outputs[name].view.tobytes() for name in flows.OUTPUTS] == expected
    used = {id(output) for output in outputs.values()} & set(map(id, targets))
    assert len(used) == (0 if offset == 64 else len(flows.OUTPUTS))


def test_a_plan_of_another_layout_is_refused(
    gpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu.tensorrt.TensorFormat, "DHWC8", "another")
    write_plan(flows.FLOW, tmp_path / "model.plan", innermost=["latent"])
    with pytest.raises(ValueError, match=r"^latent: format DHWC8; export the model again$"):
        tensorrt.Engine(tmp_path, "model.plan", 0, None)
    formats = pytest.importorskip("tensorrt_rtx").TensorFormat
    assert {"LINEAR", "DHWC8"} <= formats.__members__.keys()  # as the fake has them


def test_shapes_that_the_plan_was_not_built_for_cost_no_context(
    flow: tensorrt.Engine, gpu: Gpu
) -> None:
    expected = run(flow)
    with pytest.raises(ValueError, match=r"^latent: \[1, 4, 64, 8, 8\] is not within"):
        run(flow, latent=np.zeros((1, 4, 64, 8, 8), np.float32))
    assert run(flow) == expected and gpu.contexts == 1


def test_an_error_within_the_graph_does_not_affect_the_next_run(
    flow: tensorrt.Engine, gpu: Gpu
) -> None:
    expected = run(flow)
    with pytest.raises(Exception, match="z"):
        run(flow, z=np.zeros((1, 4, 16, 8, 8), np.float32))
    assert run(flow) == expected and gpu.contexts == 2


def test_a_runs_output_is_the_next_ones_input_with_one_row_or_two(
    flow: tensorrt.Engine, gpu: Gpu
) -> None:
    good = flows.good()
    rows = {name: np.repeat(good[name], 2, 0) for name in ("class_labels", "spacing_mm100")}
    device_rows = {name: gpu.asarray(array) for name, array in rows.items()}  # as Triton's tensors
    gpu.current.synchronize()
    on_device, on_host = dict(good), dict(good)
    for count in (2, 1, 2):
        on_device |= {name: array[:count] for name, array in device_rows.items()}
        on_host |= {name: array[:count] for name, array in rows.items()}
        latent, velocity = session(flows.FLOW.read_bytes()).run(flows.OUTPUTS, on_host)
        outputs = flow.run(on_device)
        assert outputs["next_latent"].view.tobytes() == latent.tobytes()
        assert outputs["velocity"].view.tobytes() == velocity.tobytes()
        on_device |= {"latent": outputs["next_latent"], "z": outputs["velocity"]}
        on_host |= {"latent": latent, "z": velocity}


def test_an_input_that_is_not_in_c_order_is_refused(flow: tensorrt.Engine, gpu: Gpu) -> None:
    expected = run(flow)
    latent = gpu.asarray(np.zeros((1, 4, 8, 8, 16), np.float32))[..., ::2]
    with pytest.raises(ValueError, match=r"^latent: strides \(.*\), but C order is expected"):
        run(flow, latent=latent)
    assert run(flow) == expected


def test_inputs_on_another_device_are_copied_to_the_engines_own(gpu: Gpu, tmp_path: Path) -> None:
    write_plan(flows.FLOW, tmp_path / "model.plan", most=32)
    first, second = (tensorrt.Engine(tmp_path, "model.plan", number, None) for number in (0, 1))
    good, memory = flows.good(), gpu.memories
    first_outputs = first.run(good)
    expected = run(first, latent=first_outputs["next_latent"], z=first_outputs["velocity"])
    memory[1].free_all_blocks()  # its arrays have not been written
    outputs = second.run(
        good | {"latent": first_outputs["next_latent"], "z": first_outputs["velocity"]}
    )
    assert [outputs[name].view.tobytes() for name in flows.OUTPUTS] == expected
    assert {array.device.id for array in outputs.values()} == {1}
    strided = gpu.asarray(np.zeros((1, 4, 8, 8, 16), np.float32))[..., ::2]
    with pytest.raises(ValueError, match=r"^latent: strides .*, but C order is expected$"):
        second.run(good | {"latent": strided})


def test_a_cache_on_a_full_disk_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    tensorrt.write(tmp_path / "kernels", b"first")
    monkeypatch.setattr(os, "replace", full)
    tensorrt.write(tmp_path / "kernels", b"second")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"first"]
