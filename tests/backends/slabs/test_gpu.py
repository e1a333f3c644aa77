"""Chains on a GPU, over the fake of CUDA, give the CPU's bytes for any thickness and memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.engines import grey_levels
from backends.slabs import budget, chain
from backends.slabs.arena import Arena
from backends.slabs.chain_runner import ChainRunner
from backends.slabs.gpu import Gpu, GpuArena, copy_rows
from export import tensorrt_plans
from tests.backends.engines import fake_gpu
from tests.backends.engines import fake_onnx_runtime as fake
from tests.backends.engines.fake_cuda import CUDARuntimeError
from tests.conftest import ROOT

INPUTS = {
    "vae_decoder": np.random.default_rng(0).normal(size=(1, 4, 8, 6, 4)).astype(np.float32),
    "mask_encoder": np.random.default_rng(1).integers(0, 200, (2, 1, 32, 16, 24), np.uint8),
}


class OnCpu:
    """A subgraph on the CPU, without streams."""

    def __init__(self, stem: Path) -> None:
        self.session = fake_gpu.session(stem.with_suffix(".onnx").read_bytes())

    def __call__(self, feeds: Mapping[str, Any], target: Any = None) -> dict[str, Any]:
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, dict(feeds)), strict=True))

    def release(self) -> None:
        """Do nothing."""


def folder(model: str) -> Path:
    return ROOT / "model_repository" / f"mini.{model}" / "1"


@pytest.fixture(scope="module")
def truth() -> Callable[[str, int], bytes]:
    """Return a function (model, thickness) -> the output's bytes on the CPU."""
    outputs: dict[tuple[str, int], bytes] = {}

    def output_of(model: str, thickness: int) -> bytes:
        if (model, thickness) not in outputs:
            loaded = chain.load(folder(model) / "chain.json", OnCpu)
            output = chain.run(loaded, INPUTS[model], thickness, Arena(1 << 30))
            outputs[model, thickness] = output.tobytes()
        return outputs[model, thickness]

    return output_of


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> fake.Gpu:
    return fake.Gpu().install(monkeypatch)


@pytest.fixture(params=["TensorRT", "ONNX Runtime"])
def by_onnx_runtime(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "ONNX Runtime")


@pytest.fixture
def load(gpu: fake.Gpu, tmp_path: Path, by_onnx_runtime: bool) -> Callable[..., ChainRunner]:
    """Load a model's plans, or its ONNX files."""

    def loaded(model: str, gigabytes: float = 0, **options: Any) -> ChainRunner:
        device = Gpu(0, None, by_onnx_runtime)
        if by_onnx_runtime:
            return ChainRunner(folder(model) / "chain.json", device, gigabytes, **options)
        shutil.copy(folder(model) / "chain.json", tmp_path)
        description = json.loads((tmp_path / "chain.json").read_bytes())
        # The formats of float16; the fake has them for float32, too.
        innermost = tensorrt_plans.innermost_tensors({**description, "itemsize": 2})
        assert any(innermost.values())
        for onnx in folder(model).glob("*.onnx"):
            plan = tmp_path / f"{onnx.stem}.plan"
            fake_gpu.write_plan(onnx, plan, innermost=innermost[onnx.stem])
        return ChainRunner(tmp_path / "chain.json", device, gigabytes, **options)

    return loaded


def in_slabs(runner: ChainRunner, x: np.ndarray, thickness: int, near: int = 1 << 30) -> bytes:
    """Return the output in the GPU's memory, without a further wait."""
    arena = runner.device.arena(near)
    output = chain.run(runner.chain, x, thickness, arena).view.tobytes()
    assert (arena.spilled > 0) == (near == 0)
    return output


@pytest.mark.parametrize("near", [1 << 30, 0])
@pytest.mark.parametrize("thickness", [16, 4, 1])
@pytest.mark.parametrize("model", INPUTS)
def test_in_any_slabs_the_output_is_the_cpus(
    load: Callable[..., ChainRunner],
    truth: Callable[[str, int], bytes],
    model: str,
    thickness: int,
    near: int,
) -> None:
    runner = load(model)
    for _ in range(2):  # the second one with used memory
        assert in_slabs(runner, INPUTS[model], thickness, near) == truth(model, thickness)


@pytest.mark.parametrize("by_onnx_runtime", [False], ids=["TensorRT"], indirect=True)
def test_plans_write_to_the_slabs_and_only_planes_are_copied(
    gpu: fake.Gpu, load: Callable[..., ChainRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, shapes = load("vae_decoder"), []
    copy = GpuArena.copy

    def recorded(arena: GpuArena, target: Any, source: Any) -> None:
        shapes.append(target.shape)
        copy(arena, target, source)

    monkeypatch.setattr(GpuArena, "copy", recorded)
    in_slabs(runner, INPUTS["vae_decoder"], 4)
    slabs = [shape for shape in shapes if len(shape) == 5 and shape[2] > 3]
    # The latent is cut and the image joined. Nothing else has the usual layout.
    assert [shape[1] for shape in slabs] == [4, 4, 1, 1]


def test_without_memory_slabs_get_thinner_and_the_next_run_is_not_affected(
    gpu: fake.Gpu, load: Callable[..., ChainRunner], truth: Callable[[str, int], bytes]
) -> None:
    warnings: list[str] = []
    runner, x = load("vae_decoder", gigabytes=4, warn=warnings.append), INPUTS["vae_decoder"]
    whole = runner(x).view.tobytes()
    assert whole == truth("vae_decoder", 8) and not warnings
    runner.device.forget()
    gpu.memory.capacity = gpu.memory.total_bytes() + 850_000
    assert runner(x).view.tobytes() == truth("vae_decoder", int(warnings[-1].split()[6]))
    assert len(warnings) > 1
    gpu.memory.capacity = 1 << 30
    warnings.clear()
    assert runner(x).view.tobytes() == whole and not warnings


def test_grey_levels_are_those_of_the_output(
    load: Callable[..., ChainRunner], truth: Callable[[str, int], bytes]
) -> None:
    convert = partial(grey_levels.convert, {"min": 0, "max": 1000, "clip_above": False})
    runner = load("vae_decoder", gigabytes=4, convert=convert)
    output = runner(INPUTS["vae_decoder"])
    exact = np.frombuffer(truth("vae_decoder", 8), np.float32).reshape(output.shape)
    expected = np.empty(output.shape, np.int16)
    convert(exact[0, 0], expected[0, 0])
    assert isinstance(output, np.ndarray) and output.tobytes() == expected.tobytes()
    assert len(np.unique(output)) > 10


@pytest.mark.parametrize("waits", [True, False])
def test_slabs_are_converted_once_they_are_on_the_host(
    load: Callable[..., ChainRunner],
    truth: Callable[[str, int], bytes],
    monkeypatch: pytest.MonkeyPatch,
    waits: bool,
) -> None:
    def convert(slab: np.ndarray, levels: np.ndarray) -> None:
        levels[...] = np.nan_to_num(1000 * slab)

    runner = load("vae_decoder")
    if not waits:
        monkeypatch.setattr(GpuArena, "mark", lambda arena: lambda: None)
    arena = runner.device.arena(1 << 30)
    levels = chain.run(runner.chain, INPUTS["vae_decoder"], 2, arena, convert)
    expected = np.empty(levels.shape, np.int16)
    convert(np.frombuffer(truth("vae_decoder", 2), np.float32).reshape(levels.shape), expected)
    assert (levels.tobytes() == expected.tobytes()) == waits


@pytest.mark.parametrize("fail", ["execute", "shape", "kernel"])
def test_a_failed_subgraph_does_not_affect_the_next_run(
    gpu: fake.Gpu,
    load: Callable[..., ChainRunner],
    truth: Callable[[str, int], bytes],
    fail: str,
) -> None:
    runner, x = load("mask_encoder"), INPUTS["mask_encoder"]
    gpu.fail = fail
    with pytest.raises((RuntimeError, CUDARuntimeError)):
        in_slabs(runner, x, 4)
    assert in_slabs(runner, x, 4) == truth("mask_encoder", 4)


def test_all_memory_belongs_to_one_stream(gpu: fake.Gpu, load: Callable[..., ChainRunner]) -> None:
    runner = load("vae_decoder")
    in_slabs(runner, INPUTS["vae_decoder"], 4)
    assert len({owner for owner, _ in gpu.memory.cached}) == 1


@pytest.mark.parametrize("gigabytes", [1.0, 1e-4])
def test_after_a_run_only_its_output_has_memory(
    gpu: fake.Gpu, load: Callable[..., ChainRunner], gigabytes: float
) -> None:
    runner = load("vae_decoder", gigabytes)
    output = runner(INPUTS["vae_decoder"])
    assert list(gpu.memory.segments) == [output.block.ptr]
    assert not gpu.pinned.cached


@pytest.mark.parametrize("gigabytes", [0.001, 0.003, 0.01])
@pytest.mark.parametrize("model", INPUTS)
def test_memory_of_a_run_stays_within_its_budget(
    gpu: fake.Gpu, load: Callable[..., ChainRunner], model: str, gigabytes: float
) -> None:
    runner = load(model, gigabytes)
    runner(INPUTS[model])
    assert gpu.memory.most < gigabytes * 1e9  # real plans have more scratch memory


def test_without_a_budget_the_share_of_free_memory_is_used(
    gpu: fake.Gpu, load: Callable[..., ChainRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu.memory.capacity = 20_000_000
    array = gpu.empty((2_000_000,), np.uint8)
    runner = load("vae_decoder")
    sizes: list[int] = []
    arena = runner.device.arena
    monkeypatch.setattr(runner.device, "arena", lambda size: sizes.append(size) or arena(size))
    shape = INPUTS["vae_decoder"].shape
    engine = runner.thickness(shape) * budget.engine_bytes(runner.chain, shape)
    runner(INPUTS["vae_decoder"])
    free = gpu.memory.capacity - array.nbytes
    assert sizes[0] == pytest.approx(0.85 * free - engine, rel=1e-3)


def test_without_pinned_memory_other_memory_of_the_host_is_used(
    gpu: fake.Gpu, load: Callable[..., ChainRunner], truth: Callable[[str, int], bytes]
) -> None:
    gpu.pinned.capacity = 0
    assert in_slabs(load("vae_decoder"), INPUTS["vae_decoder"], 4, 0) == truth("vae_decoder", 4)


def test_a_copy_is_a_copy_of_rows() -> None:
    whole = np.zeros((2, 3, 8, 4, 5), np.float32)
    part = np.zeros((2, 3, 6, 4, 5), np.float32)
    assert copy_rows(whole[:, :, 1:-1], part) == (6 * 80, 6, 8 * 80, 6 * 80)
    assert copy_rows(part[:, :, 0], whole[:, :, 2]) == (80, 6, 6 * 80, 8 * 80)
    assert copy_rows(part[:1, :1], whole[1:, 2:, 2:]) == (6 * 80, 1, 6 * 80, 6 * 80)
    assert copy_rows(whole, whole) == (whole.nbytes, 1, whole.nbytes, whole.nbytes)
    assert copy_rows(whole[0, 0, 0, 0, ::2], part[0, 0, 0, :3, 0]) == (4, 3, 8, 20)
    last, part_last = (array.transpose(0, 2, 3, 4, 1).copy() for array in (whole, part))
    last, part_last = (array.transpose(0, 4, 1, 2, 3) for array in (last, part_last))
    plane = 3 * 4 * 5 * 4
    assert copy_rows(last[:1, :, 1:-1], part_last[:1]) == (6 * plane, 1, 6 * plane, 6 * plane)
    assert copy_rows(last[:, :, 0], part_last[:, :, 2]) == (plane, 2, 8 * plane, 6 * plane)
    with pytest.raises(ValueError, match="is not a copy of evenly spaced rows"):
        copy_rows(whole[:, :, :6, :2], part[:, :, :, :2])
    with pytest.raises(ValueError, match=r"needs the same type and shape, not float16 \[2, 3, 8"):
        copy_rows(whole, whole.astype(np.float16))
    with pytest.raises(ValueError, match="needs the same type and shape"):
        copy_rows(whole, part)


def engines_on_streams_of_their_own(runner: ChainRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    for subgraph in runner.chain.subgraphs:
        engine = subgraph.engine.engine
        stream = runner.device.cupy.cuda.Stream(non_blocking=True)
        getattr(engine, "session", engine).stream = stream


def copies_on_the_null_stream(runner: ChainRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = runner.device.cupy.cuda.runtime
    copy = runtime.memcpy2DAsync
    monkeypatch.setattr(runtime, "memcpy2DAsync", lambda *arguments: copy(*arguments[:-1], 0))


def no_wait_at_the_end(runner: ChainRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def without_wait() -> Iterator[None]:
        with runner.device.stream:
            yield

    monkeypatch.setattr(runner.device, "ordered", without_wait)


def no_wait_before_moments_are_read(runner: ChainRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GpuArena, "wait", lambda arena: None)


def no_wait_before_the_hosts_halos_are_copied(
    runner: ChainRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = GpuArena.copy

    def without_wait(arena: GpuArena, target: Any, source: Any) -> None:
        if isinstance(target, np.ndarray) and isinstance(source, np.ndarray):
            target[...] = source
        else:
            copy(arena, target, source)

    monkeypatch.setattr(GpuArena, "copy", without_wait)


def pinned_memory_is_freed_before_its_copy_ran(
    runner: ChainRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = GpuArena.free

    def without_wait(arena: GpuArena, array: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(arena, "wait", lambda: None)
            free(arena, array)

    monkeypatch.setattr(GpuArena, "free", without_wait)


ALWAYS = [
    engines_on_streams_of_their_own,
    copies_on_the_null_stream,
    no_wait_before_moments_are_read,
]
NEAR = [no_wait_at_the_end]  # with far slabs, freeing the last one waits
SPILLED = [no_wait_before_the_hosts_halos_are_copied, pinned_memory_is_freed_before_its_copy_ran]


@pytest.mark.filterwarnings("ignore:overflow")  # of moments that have not been written
@pytest.mark.parametrize(
    ("fault", "near"),
    [(fault, 1 << 30) for fault in ALWAYS + NEAR] + [(fault, 0) for fault in ALWAYS + SPILLED],
)
def test_without_the_order_the_output_is_wrong(
    load: Callable[..., ChainRunner],
    truth: Callable[[str, int], bytes],
    monkeypatch: pytest.MonkeyPatch,
    by_onnx_runtime: bool,
    fault: Callable[[ChainRunner, pytest.MonkeyPatch], None],
    near: int,
) -> None:
    if by_onnx_runtime and fault is no_wait_before_moments_are_read:
        pytest.skip("shrinking an arena waits, too")
    runner = load("vae_decoder")
    fault(runner, monkeypatch)
    assert in_slabs(runner, INPUTS["vae_decoder"], 4, near) != truth("vae_decoder", 4)
