"""Builds: what is kept, what is refused, and that a failure leaves the repository as it was."""

from __future__ import annotations

import dataclasses
import fcntl
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from export import build
from export.files import sha256
from export.job import limit
from tests.export.repository_of_tiny import tiny_job
from tests.export.weights import random_checkpoint, tiny


def files(folder: Path) -> dict[str, str]:
    return {str(path): sha256(path) for path in folder.rglob("*") if path.is_file()}


def test_a_second_build_exports_nothing(tiny_repository: Path) -> None:
    before = files(tiny_repository / "models")
    said: list[str] = []
    build.build(tiny_job(tiny_repository), said.append)
    assert len([line for line in said if "kept from an earlier build" in line]) == 5
    assert not any("relative error" in line for line in said)
    assert said[-1] == f"tiny: {tiny_repository / 'models'} has it already"
    assert files(tiny_repository / "models") == before


def test_what_differs_in_its_configuration_or_lacks_a_file_is_written_again(
    tmp_path: Path, tiny_repository: Path
) -> None:
    def again(**changes: Any) -> str:
        said: list[str] = []
        build.build(dataclasses.replace(here, **changes), said.append)
        return said[-1]

    models = tmp_path / "models"
    shutil.copytree(tiny_repository / "models", models)
    here = dataclasses.replace(tiny_job(tiny_repository), repository=models)
    assert again().endswith("has it already")
    smaller = limit(tiny(), (64, 64, 64))
    assert again(variant=smaller) == f"tiny: written to {models}"
    assert again(variant=smaller).endswith("has it already")
    (models / "tiny.flow" / "1" / "model.onnx").unlink()
    assert again(variant=smaller) == f"tiny: written to {models}"


def test_builds_with_one_cache_wait_for_each_other(tiny_repository: Path) -> None:
    said: list[str] = []
    with (tiny_repository / "cache" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        other = threading.Thread(target=build.build, args=(tiny_job(tiny_repository), said.append))
        other.start()
        other.join(1)
        assert other.is_alive() and not said
    other.join(60)
    assert said[-1].endswith("has it already")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: path.write_bytes(path.read_bytes()[:1000]), "truncated"),
    ],
)
def test_a_bad_checkpoint_leaves_the_repository_as_it_was(
    damage: object, sentence: str, tmp_path: Path, tiny_repository: Path
) -> None:
    random_checkpoint(tiny(), tmp_path)
    assert callable(damage)
    damage(tmp_path / tiny().checkpoints["controlnet"])
    before = files(tiny_repository / "models")
    bad = dataclasses.replace(tiny_job(tiny_repository), checkpoints=tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        build.build(bad)
    assert files(tiny_repository / "models") == before
