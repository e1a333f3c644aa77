"""Networks that learn from synthetic volumes, from real ones, and from both."""

from __future__ import annotations

from pathlib import Path

import pytest
from maisi_client import InvalidRequest
from maisi_client._assess import harmonising, use, verdicts
from maisi_client._assess.reading import read_dataset
from maisi_client._assess.run import assess

from tests.client.assess.sets import HARMONY


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train on volumes of 24 voxels a side, and few labels."""
    monkeypatch.setattr(harmonising, "COARSE", 24)
    monkeypatch.setattr(use, "_STEPS", 40)
    monkeypatch.setattr(use, "_SECONDS", 1e9)
    monkeypatch.setattr(use, "_CLASSES", 3)


def trained(folders: dict[str, Path], name: str) -> use.Use:
    sides = read_dataset(folders[name], "SYNTHETIC"), read_dataset(folders["real"], "--real")
    done: list[float] = []
    result = use.use(*sides, HARMONY, 0, done.append)
    assert result is not None and done == sorted(done) and done[-1] == 1
    return result


def test_the_time_ends_the_training_of_all_networks(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(use, "_SECONDS", 1e-9)
    result = trained(folders, "untouched")
    assert (result.steps, result.planned) == (1, 40)
    verdict = verdicts.of_use(result)
    assert verdict.level == "unknown" and "ended after 1 of 40 steps" in verdict.sentence
    assert result.real.low <= result.real.mean <= result.real.high


@pytest.mark.slow
def test_what_is_learned_from_the_right_masks_is_worth_more(folders: dict[str, Path]) -> None:
    right, wrong = trained(folders, "untouched"), trained(folders, "shuffled")
    assert right.tested == 6 and right.both.volumes == 2 * right.real.volumes == 12
    assert right.steps == wrong.steps == 40
    assert wrong.synthetic.mean < right.synthetic.mean - 0.05
    assert wrong.real == right.real  # seeds are fixed, and the set is the same
    assert right.real.low <= right.real.mean <= right.real.high
    assert set(right.synthetic.labels) == set(right.real.labels) and len(right.real.labels) == 3
    verdict = verdicts.of_use(right)
    assert verdict.level in ("good", "check")
    assert "Dice on 6 held-out real volumes" in verdict.sentence


def test_without_labels_nothing_is_trained(folders: dict[str, Path]) -> None:
    sides = read_dataset(folders["blurred"], "SYNTHETIC"), read_dataset(folders["real"], "--real")
    assert use.use(*sides, HARMONY, 0, lambda done: None) is None


def test_training_needs_real_volumes(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="--train needs --real"):
        assess(folders["blurred"], to=tmp_path, train=True)
