"""An engine of TensorRT whose run failed is whole again, over a fake of the GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.engines import tensorrt
from backends.engines.memory import out_of_memory
from tests.backends.engines import flows
from tests.backends.engines.fake_gpu import Gpu, session, write_plan


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return Gpu().install(monkeypatch)


@pytest.fixture
def flow(gpu: Gpu, tmp_path: Path) -> tensorrt.Engine:
    write_plan(flows.FLOW, tmp_path / "model.plan", most=32)
    return tensorrt.Engine(tmp_path, "model.plan", 0, None)


def run(flow: tensorrt.Engine, **changed: Any) -> list[bytes]:
    outputs = flow.run(flows.good() | changed)
    return [outputs[name].view.tobytes() for name in flows.OUTPUTS]  # nothing has to be waited for


@pytest.mark.parametrize("what", ["execute", "allocate", "shape", "kernel"])
def test_after_a_run_that_failed_the_next_is_as_ever(
    flow: tensorrt.Engine, gpu: Gpu, what: str
) -> None:
    before = run(flow)
    assert run(flow) == before and gpu.contexts == 1  # one for all runs
    gpu.fail = what
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        run(flow)
    assert out_of_memory(caught.value) == (what == "allocate")
    assert run(flow) == before and gpu.contexts == 2


def test_the_first_run_of_tensorrt_rtx_gives_the_bytes_of_the_next(
    gpu: Gpu, tmp_path: Path
) -> None:
    write_plan(flows.FLOW, tmp_path / "model.plan", most=32, target="tensorrt-rtx")
    flow = tensorrt.Engine(tmp_path, "model.plan", 0, tmp_path / "kernels")
    assert run(flow) == run(flow)
    kernels = pytest.importorskip("tensorrt_rtx").DynamicShapesKernelSpecializationStrategy
    assert "EAGER" in kernels.__members__  # as the fake has it


def test_shapes_that_the_plan_was_not_built_for_cost_no_context(
    flow: tensorrt.Engine, gpu: Gpu
) -> None:
    before = run(flow)
    with pytest.raises(ValueError, match=r"^latent: \[1, 4, 64, 8, 8\] is not within"):
        run(flow, latent=np.zeros((1, 4, 64, 8, 8), np.float32))
    assert run(flow) == before and gpu.contexts == 1


def test_what_a_run_raises_within_the_graph_is_no_end(flow: tensorrt.Engine, gpu: Gpu) -> None:
    before = run(flow)
    with pytest.raises(Exception, match="z"):
        run(flow, z=np.zeros((1, 4, 16, 8, 8), np.float32))
    assert run(flow) == before and gpu.contexts == 2


def test_what_a_run_gave_is_the_next_ones_input_also_its_first_row_alone(
    flow: tensorrt.Engine, gpu: Gpu
) -> None:
    good = flows.good()
    rows = {name: np.repeat(good[name], 2, 0) for name in ("class_labels", "spacing_mm100")}
    kept = {name: gpu.asarray(array) for name, array in rows.items()}  # as Triton holds them
    gpu.current.synchronize()
    on_device, on_host = dict(good), dict(good)
    for count in (2, 1, 2):
        on_device |= {name: array[:count] for name, array in kept.items()}
        on_host |= {name: array[:count] for name, array in rows.items()}
        latent, velocity = session(flows.FLOW.read_bytes()).run(flows.OUTPUTS, on_host)
        outputs = flow.run(on_device)
        assert outputs["next_latent"].view.tobytes() == latent.tobytes()
        assert outputs["velocity"].view.tobytes() == velocity.tobytes()
        on_device |= {"latent": outputs["next_latent"], "z": outputs["velocity"]}
        on_host |= {"latent": latent, "z": velocity}


def test_an_input_that_is_not_in_c_order_is_refused(flow: tensorrt.Engine, gpu: Gpu) -> None:
    before = run(flow)
    latent = gpu.asarray(np.zeros((1, 4, 8, 8, 16), np.float32))[..., ::2]
    with pytest.raises(ValueError, match=r"^latent: strides \(.*\), but C order is expected"):
        run(flow, latent=latent)
    assert run(flow) == before


def test_what_lies_on_another_device_is_brought_to_the_engines_own(
    gpu: Gpu, tmp_path: Path
) -> None:
    write_plan(flows.FLOW, tmp_path / "model.plan", most=32)
    first, second = (tensorrt.Engine(tmp_path, "model.plan", number, None) for number in (0, 1))
    good, memory = flows.good(), gpu.memories
    before = first.run(good)
    expected = run(first, latent=before["next_latent"], z=before["velocity"])
    memory[1].free_all_blocks()  # what lies there has not been written
    found = second.run(good | {"latent": before["next_latent"], "z": before["velocity"]})
    assert [found[name].view.tobytes() for name in flows.OUTPUTS] == expected
    assert {array.device.id for array in found.values()} == {1}
    half = gpu.asarray(np.zeros((1, 4, 8, 8, 16), np.float32))[..., ::2]
    with pytest.raises(ValueError, match=r"^latent: strides .*, but C order is expected$"):
        second.run(good | {"latent": half})
