"""Builds: what is reused, what is refused, and that a failure leaves the repository unchanged."""

from __future__ import annotations

import dataclasses
import fcntl
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from export import build, cache
from export.files import sha256
from export.job import limit
from tests.export.repository_of_tiny import job, official
from tests.export.weights import random_checkpoint

DDPM = official("tiny-ddpm")


def files(folder: Path) -> dict[str, str]:
    return {str(path): sha256(path) for path in folder.rglob("*") if path.is_file()}


def test_a_second_build_exports_nothing(official_repository: Path) -> None:
    before = files(official_repository / "models")
    lines: list[str] = []
    build.build(job(DDPM, official_repository), lines.append)
    assert len([line for line in lines if "kept from an earlier build" in line]) == 7
    assert not any("relative error" in line for line in lines)
    assert lines[-1] == f"tiny-ddpm: up to date in {official_repository / 'models'}"
    assert files(official_repository / "models") == before


def test_what_differs_in_its_configuration_or_lacks_a_file_is_written_again(
    tmp_path: Path, official_repository: Path
) -> None:
    models = tmp_path / "models"
    shutil.copytree(official_repository / "models", models)
    first = dataclasses.replace(job(DDPM, official_repository), repository=models)

    def last_line(**changes: Any) -> str:
        lines: list[str] = []
        build.build(dataclasses.replace(first, **changes), lines.append)
        return lines[-1]

    assert ": up to date in " in last_line()
    smaller = limit(DDPM, (64, 64, 64))
    assert last_line(variant=smaller) == f"tiny-ddpm: written to {models}"
    assert ": up to date in " in last_line(variant=smaller)
    (models / "tiny-ddpm.flow" / "1" / "model.onnx").unlink()
    assert last_line(variant=smaller) == f"tiny-ddpm: written to {models}"


def test_builds_with_one_cache_wait_for_each_other(
    tmp_path: Path, official_repository: Path
) -> None:
    lines: list[str] = []
    with cache.locked(official_repository / "cache"):  # other processes use it, too
        shutil.copytree(official_repository, tmp_path / "official")
    with (tmp_path / "official" / "cache" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        arguments = job(DDPM, tmp_path / "official"), lines.append
        other = threading.Thread(target=build.build, args=arguments)
        other.start()
        other.join(1)
        assert other.is_alive() and not lines
    other.join(60)
    assert ": up to date in " in lines[-1]


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: path.write_bytes(path.read_bytes()[:1000]), "truncated"),
    ],
)
def test_a_bad_checkpoint_leaves_the_repository_as_it_was(
    damage: object, sentence: str, tmp_path: Path, official_repository: Path
) -> None:
    random_checkpoint(DDPM, tmp_path)
    assert callable(damage)
    damage(tmp_path / DDPM.checkpoints["controlnet"])
    before = files(official_repository / "models")
    damaged = dataclasses.replace(job(DDPM, official_repository), checkpoints=tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        build.build(damaged)
    assert files(official_repository / "models") == before
