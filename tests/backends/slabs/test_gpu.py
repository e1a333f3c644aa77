"""Chains on a GPU, over the fake of CUDA: the CPU's bytes, however thick slabs are and wherever."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.slabs import chain
from backends.slabs.place import Gpu, Network
from backends.slabs.room import Room
from tests.backends.engines import fake_gpu
from tests.backends.engines.fake_cuda import CUDARuntimeError
from tests.conftest import ROOT

INPUTS = {
    "vae_decoder": np.random.default_rng(0).normal(size=(1, 4, 8, 6, 4)).astype(np.float32),
    "mask_encoder": np.random.default_rng(1).integers(0, 200, (2, 1, 32, 16, 24), np.uint8),
}


class OnCpu:
    """A stage as the fake computes it, without streams."""

    def __init__(self, stem: Path) -> None:
        self.session = fake_gpu.session(stem.with_suffix(".onnx").read_bytes())

    def __call__(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, dict(feeds)), strict=True))

    def release(self) -> None:
        """Nothing is held."""


def folder(model: str) -> Path:
    return ROOT / "model_repository" / f"mini.{model}" / "1"


@pytest.fixture(scope="module")
def truth() -> Callable[[str, int], bytes]:
    """What a model makes of its input on the CPU, in slabs of some thickness."""
    made: dict[tuple[str, int], bytes] = {}

    def of(model: str, thickness: int) -> bytes:
        if (model, thickness) not in made:
            loaded = chain.load(folder(model) / "chain.json", OnCpu)
            found = chain.run(loaded, INPUTS[model], thickness, Room(1 << 30))
            made[model, thickness] = found.tobytes()
        return made[model, thickness]

    return of


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> fake_gpu.Gpu:
    return fake_gpu.Gpu().install(monkeypatch)


@pytest.fixture
def load(gpu: fake_gpu.Gpu, tmp_path: Path) -> Callable[..., Network]:
    """Load a model's plans."""

    def loaded(model: str, gigabytes: float = 0, **options: Any) -> Network:
        shutil.copy(folder(model) / "chain.json", tmp_path)
        for onnx in folder(model).glob("*.onnx"):
            fake_gpu.write_plan(onnx, tmp_path / f"{onnx.stem}.plan")
        return Network(tmp_path / "chain.json", Gpu(0, None), gigabytes, **options)

    return loaded


def in_slabs(network: Network, x: np.ndarray, thickness: int, near: int = 1 << 30) -> bytes:
    """Return the output as it lies in the GPU's memory, without waiting for anything."""
    room = network.place.room(near)
    found = chain.run(network.chain, x, thickness, room).view.tobytes()
    assert (room.spilled > 0) == (near == 0)
    return found


@pytest.mark.parametrize("near", [1 << 30, 0])
@pytest.mark.parametrize("thickness", [16, 4, 1])
@pytest.mark.parametrize("model", INPUTS)
def test_in_any_slabs_the_output_is_the_cpus(
    load: Callable[..., Network],
    truth: Callable[[str, int], bytes],
    model: str,
    thickness: int,
    near: int,
) -> None:
    network = load(model)
    for _ in range(2):  # then all memory has been used before
        assert in_slabs(network, INPUTS[model], thickness, near) == truth(model, thickness)


def test_without_memory_slabs_get_thinner_and_the_next_run_is_as_ever(
    gpu: fake_gpu.Gpu, load: Callable[..., Network], truth: Callable[[str, int], bytes]
) -> None:
    warned: list[str] = []
    network, x = load("vae_decoder", gigabytes=4, warn=warned.append), INPUTS["vae_decoder"]
    whole = network(x).view.tobytes()
    assert whole == truth("vae_decoder", 8) and not warned
    network.place.forget()
    gpu.memory.capacity = gpu.memory.total_bytes() + 600_000
    assert network(x).view.tobytes() == truth("vae_decoder", int(warned[-1].split()[6]))
    assert len(warned) > 1
    gpu.memory.capacity = 1 << 30
    warned.clear()
    assert network(x).view.tobytes() == whole and not warned


@pytest.mark.parametrize("fail", ["execute", "shape", "kernel"])
def test_after_a_stage_that_failed_the_next_run_is_as_ever(
    gpu: fake_gpu.Gpu,
    load: Callable[..., Network],
    truth: Callable[[str, int], bytes],
    fail: str,
) -> None:
    network, x = load("mask_encoder"), INPUTS["mask_encoder"]
    gpu.fail = fail
    with pytest.raises((RuntimeError, CUDARuntimeError)):
        in_slabs(network, x, 4)
    assert in_slabs(network, x, 4) == truth("mask_encoder", 4)


def test_one_stream_has_all_memory(gpu: fake_gpu.Gpu, load: Callable[..., Network]) -> None:
    network = load("vae_decoder")
    in_slabs(network, INPUTS["vae_decoder"], 4)
    assert len({owner for owner, _ in gpu.memory.cached}) == 1


def plans_on_streams_of_their_own(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    for plan in network.place.engines:
        plan.stream = network.place.cupy.cuda.Stream(non_blocking=True)


def copies_on_the_null_stream(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def unordered() -> Iterator[None]:
        yield
        network.place.wait()

    monkeypatch.setattr(network.place, "ordered", unordered)


def no_wait_at_the_end(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network.place, "wait", lambda: None)


FAULTS = [plans_on_streams_of_their_own, copies_on_the_null_stream, no_wait_at_the_end]


@pytest.mark.parametrize("near", [1 << 30, 0])
@pytest.mark.parametrize("fault", FAULTS)
def test_without_an_order_the_output_is_another(
    load: Callable[..., Network],
    truth: Callable[[str, int], bytes],
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[Network, pytest.MonkeyPatch], None],
    near: int,
) -> None:
    network = load("vae_decoder")
    fault(network, monkeypatch)
    assert in_slabs(network, INPUTS["vae_decoder"], 4, near) != truth("vae_decoder", 4)
