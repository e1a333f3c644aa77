"""Chains with little memory, in another process, and the limits of files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.slabs import budget, chain
from backends.slabs.arena import Arena
from backends.slabs.chain_runner import ChainRunner
from backends.slabs.cpu import Cpu
from tests.conftest import ROOT


def test_without_memory_slabs_get_thinner_and_then_the_request_is_refused() -> None:
    chain = ROOT / "model_repository" / "mini.vae_decoder" / "1" / "chain.json"
    command = [sys.executable, "-m", "tests.backends.slabs.little_memory", str(chain)]
    report = json.loads(
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    )
    without, little, enough = report["attempts"]
    assert without["sentence"].startswith("out of memory: latent [1, 4, 16, 12, 12] was too large")
    assert "/" not in without["sentence"] and "\n" not in without["sentence"]
    assert [int(warning.split("slabs of ")[1].split()[0]) for warning in without["warnings"]] == [
        *(16, 8, 4, 2, 1)
    ]
    assert little["sentence"] is None and len(little["warnings"]) > 1
    assert little["difference"] < 1e-5  # a hundredth of a grey level
    assert enough["sentence"] is None and not enough["warnings"]
    assert enough["difference"] == 0
    first, last = report["digests"]
    assert first == last


@pytest.mark.parametrize("network", ["vae_decoder", "vae_encoder", "mask_encoder", "mask_decoder"])
@pytest.mark.parametrize("planes", [8, 16])  # one slab of all, and slabs of 6, 6 and 4
def test_a_prepared_run_compiles_nothing(
    network: str, planes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backends.engines.openvino.is_free", lambda _: True)
    monkeypatch.setattr("backends.slabs.budget.THICKEST", 6 if planes == 16 else 16)
    path = ROOT / "model_repository" / f"mini.{network}" / "1" / "chain.json"
    runner = ChainRunner(path, Cpu(tmp_path, 2), 4)
    side = runner.chain.planes[runner.chain.input]
    sides = (planes * side, 8 * side, 4 * side)
    shape = (1, *sides) if network == "mask_encoder" else (1, 4, *sides)
    if network == "vae_encoder":
        shape = (1, 1, *sides)
    runner.prepare(shape)
    for engine in runner.device.engines:
        monkeypatch.setattr(engine, "_compile", None)  # cannot be called
    assert np.isfinite(runner(np.zeros(shape, np.float32))).all()


@pytest.mark.parametrize("network", ["vae_decoder", "vae_encoder", "mask_encoder"])
def test_engines_write_to_the_slabs_and_only_planes_are_copied(
    network: str, tmp_path: Path
) -> None:
    path = ROOT / "model_repository" / f"mini.{network}" / "1" / "chain.json"
    runner = ChainRunner(path, Cpu(tmp_path, 2))
    side = runner.chain.planes[runner.chain.input]
    sides = (8 * side, 4 * side, 4 * side)
    channels = runner.chain.channels[runner.chain.input]
    x = np.random.default_rng(0).normal(size=(1, channels, *sides)).astype(np.float32)
    copied: list[tuple[int, ...]] = []

    class Copies(Arena):
        def copy(self, target: Any, source: Any) -> None:
            copied.append(source.shape)
            super().copy(target, source)

    def run(arena: Arena) -> bytes:
        copied.clear()
        output: bytes = chain.run(runner.chain, x, 3, arena).tobytes()
        return output

    output = run(Copies(1 << 30, innermost=True))
    cut = [(1, channels, planes * side, *sides[1:]) for planes in (3, 3, 2)]
    slabs = [shape for shape in copied if len(shape) == 5]
    assert slabs[:3] == cut and len(slabs) == 6  # the input is cut, the output is joined
    assert any(len(shape) == 4 for shape in copied)
    assert run(Copies(0, innermost=True)) == output  # far memory, to which all slabs are copied
    assert sum(len(shape) == 5 for shape in copied) > 20
    assert run(Copies(1 << 30, innermost=True)) == output


def test_slabs_are_thinner_only_if_the_engine_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    path = ROOT / "model_repository" / "mini.vae_decoder" / "1" / "chain.json"
    runner = ChainRunner(path, Cpu(tmp_path, 2), warn=warnings.append)
    latent = np.random.default_rng(0).normal(size=(1, 4, 16, 8, 8)).astype(np.float32)
    engine = budget.engine_bytes(runner.chain, latent.shape)
    outputs = {}
    for planes in (1000, 17, 15.5, 1.5, 0):  # of an engine, that are free
        free = planes * engine / runner.device.share
        monkeypatch.setattr(runner.device, "available", lambda free=free: free)
        outputs[planes] = runner(latent).copy()
    assert warnings == [f"memory is short; trying slabs of {planes}" for planes in (6, 1, 1)]
    for planes, output in outputs.items():
        if planes > 16:
            assert output.tobytes() == outputs[1000].tobytes()
        np.testing.assert_allclose(output, outputs[1000], atol=1e-5)


def test_activations_go_first_then_slabs_get_thinner() -> None:
    assert budget.attempts(11, 10**9) == [(11, 10**9), (11, 0), (5, 0), (2, 0), (1, 0)]
    assert budget.attempts(1, 0) == [(1, 0)]


def test_files_of_activations_are_bounded(tmp_path: Path) -> None:
    path = ROOT / "model_repository" / "mini.vae_decoder" / "1" / "chain.json"
    latent = np.random.default_rng(0).normal(size=(1, 4, 16, 12, 12)).astype(np.float32)
    expected = ChainRunner(path, Cpu(tmp_path, 2), 4)(latent)
    spilling = ChainRunner(path, Cpu(tmp_path, 2, spill_gigabytes=0.5), 0.001)
    assert np.abs(spilling(latent) - expected).max() < 1e-4
    spilling.device = Cpu(tmp_path, 2, spill_gigabytes=0.001)
    with pytest.raises(OSError, match="Disk quota exceeded"):
        spilling(latent)
    spilling.device = Cpu(tmp_path, 2, spill_gigabytes=0)  # no files
    with pytest.raises(OSError, match="Disk quota exceeded"):
        spilling(latent)
    assert list(tmp_path.iterdir()) == []


def test_far_memory_is_bounded_at_a_time_and_not_in_sum() -> None:
    arena = Arena(0, far_limit=100)
    first = arena.empty((100,), np.uint8)
    with pytest.raises(OSError, match="Disk quota exceeded"):
        arena.empty((1,), np.uint8)
    arena.free(first)
    arena.empty((100,), np.uint8)
    assert (arena.far_bytes, arena.spilled) == (100, 200)
