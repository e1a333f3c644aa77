"""ONNX Runtime by IOBinding: on the CPU's provider, and over the fake of CUDA on a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from backends.engines import onnx_runtime
from backends.engines.memory import out_of_memory
from backends.engines.onnx_runtime import Engine
from tests.backends.engines import flows
from tests.backends.engines.fake_gpu import session
from tests.backends.engines.fake_onnx_runtime import Gpu


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return Gpu().install(monkeypatch)


@pytest.fixture
def on_gpu(gpu: Gpu) -> Engine:
    return Engine(flows.FLOW, onnx_runtime.gpu(0))


def truth(**changes: Any) -> list[bytes]:
    outputs = session(flows.FLOW.read_bytes()).run(flows.OUTPUTS, flows.good() | changes)
    return [array.tobytes() for array in outputs]


def run(engine: Engine, **changes: Any) -> list[bytes]:
    outputs = engine.run(flows.good() | changes)
    return [outputs[name].view.tobytes() for name in flows.OUTPUTS]  # without a further wait


def test_on_the_cpu_bound_arrays_give_the_same_outputs() -> None:
    engine = Engine(flows.FLOW, onnx_runtime.cpu(1))
    outputs = engine.run(flows.good())
    assert [outputs[name].tobytes() for name in flows.OUTPUTS] == truth()
    assert list(engine.run(flows.good(), ["velocity"])) == ["velocity"]
    fortran_order = np.asfortranarray(flows.good()["latent"])
    repeated = engine.run(flows.good() | {"latent": fortran_order, "z": fortran_order})
    assert [repeated[name].tobytes() for name in flows.OUTPUTS] == truth()
    assert outputs["velocity"].tobytes() == truth()[1]  # later runs do not write into it
    with pytest.raises(Exception, match="z"):
        engine.run(flows.good() | {"z": np.zeros((1, 4, 16, 8, 8), np.float32)})
    assert engine.run(flows.good())["velocity"].tobytes() == truth()[1]


def test_on_a_gpu_a_runs_output_is_the_next_ones_input(gpu: Gpu, on_gpu: Engine) -> None:
    on_device, on_host = flows.good(), flows.good()
    for _ in range(3):
        outputs = on_gpu.run(on_device)
        latent, velocity = session(flows.FLOW.read_bytes()).run(flows.OUTPUTS, on_host)
        assert outputs["next_latent"].view.tobytes() == latent.tobytes()
        assert outputs["velocity"].view.tobytes() == velocity.tobytes()
        on_device |= {"latent": outputs["next_latent"], "z": outputs["velocity"]}
        on_host |= {"latent": latent, "z": velocity}


def test_an_input_is_copied_from_another_device_alone(gpu: Gpu, on_gpu: Engine) -> None:
    latent = flows.good()["latent"]
    array = gpu.asarray(latent)
    gpu.current.synchronize()
    before = gpu.memory.used
    with on_gpu.device.current():
        assert on_gpu._bring("latent", array) is array and gpu.memory.used == before
    with gpu.cupy.cuda.Device(1):
        on_other_device = gpu.asarray(latent)
        gpu.current.synchronize()
    assert run(on_gpu, latent=on_other_device, z=on_other_device) == truth()


@pytest.mark.parametrize("failure", ["execute", "allocate", "shape", "kernel"])
def test_a_failed_run_does_not_affect_the_next(gpu: Gpu, on_gpu: Engine, failure: str) -> None:
    assert run(on_gpu) == truth()
    on_gpu.shrink(flows.good())
    gpu.fail = failure
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        run(on_gpu)
    assert out_of_memory(caught.value) == (failure == "allocate")
    assert run(on_gpu) == truth()


def test_an_arena_keeps_memory_until_it_shrinks(gpu: Gpu, on_gpu: Engine) -> None:
    run(on_gpu)
    assert gpu.arenas > 0
    on_gpu.shrink(flows.good())
    assert gpu.arenas == 0
    assert run(on_gpu) == truth()


def test_on_another_stream_the_output_is_wrong(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = gpu.onnxruntime.InferenceSession

    def forgetful(path: Path, options: Any, providers: Any, **_: Any) -> Any:
        del providers[0][1]["user_compute_stream"]
        return sessions(path, options, providers)

    monkeypatch.setattr(gpu.onnxruntime, "InferenceSession", forgetful)
    assert run(Engine(flows.FLOW, onnx_runtime.gpu(0))) != truth()


def test_an_input_that_is_not_in_c_order_is_refused(gpu: Gpu, on_gpu: Engine) -> None:
    latent = gpu.asarray(np.zeros((1, 4, 8, 8, 16), np.float32))[..., ::2]
    with pytest.raises(ValueError, match=r"^latent: strides \(.*\), but C order is expected"):
        on_gpu.run(flows.good() | {"latent": latent})
    assert run(on_gpu) == truth()


def test_a_session_that_fell_back_to_the_cpu_is_refused(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        gpu.onnxruntime,
        "InferenceSession",
        lambda path, options, providers, **_: onnxruntime.InferenceSession(path),
    )
    with pytest.raises(RuntimeError, match="ONNX Runtime has no CUDAExecutionProvider"):
        Engine(flows.FLOW, onnx_runtime.gpu(0))


def test_a_missing_provider_is_named_with_the_command_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ValueError, match=r"is built for the CPU: pip uninstall"):
        onnx_runtime.expect_provider()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(ValueError, match=r"^ONNX Runtime's CUDA provider lacks .*: pip uninstall"):
        onnx_runtime.expect_provider()
