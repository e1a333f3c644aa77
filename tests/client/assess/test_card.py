"""Verdicts in the dataset card, and the assessment at the end of `maisi dataset`."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import pytest
from maisi_client._assess.card import add_verdicts
from maisi_client._assess.run import assess
from maisi_client._cli import dataset


@pytest.fixture
def made(folders: dict[str, Path], tmp_path: Path) -> Path:
    """Return a folder as `maisi dataset` leaves it, with reports."""
    folder = tmp_path / "heads"
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    (folder / "reports").mkdir()
    for number in range(3):
        for part in ("images", "labels"):
            name = f"case_{number:04}"
            shutil.copy(folders["untouched"] / f"{part}/{name}.nii.gz", folder / part)
            report = {
                "seed": number + 5,
                "variant": "mini",
                "modality": "mri_t1",
                "weights": {"flow.onnx": "ab" * 32},
                "fidelity": {"faithful": True},
            }
            (folder / f"reports/{name}.json").write_text(json.dumps(report))
    (folder / "README.md").write_text("# heads\n")
    return folder


def test_a_dataset_is_assessed_where_it_was_made(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = argparse.Namespace(to=str(made), json=False)
    verdicts = dataset._assess(args)["verdicts"]
    assert isinstance(verdicts, list) and len(verdicts) == 6
    assert (made / "assessment/report.html").is_file()
    assert str(made / "assessment/report.html") in capsys.readouterr().out
    report = json.loads((made / "assessment/report.json").read_text())
    assert report["obedience"]["reported"] == {
        "faithful": 3,
        "unfaithful": 0,
        "without an answer": 0,
    }
    assert "## Assessment" in (made / "README.md").read_text()
    assert report["bias"]["modalities"] == {"SYNTHETIC": {"mri_t1": 3}}


def test_verdicts_are_the_last_section_of_the_card(made: Path, tmp_path: Path) -> None:
    result = assess(made, to=tmp_path / "r")
    card = made / "README.md"
    for _ in range(2):  # a second time replaces the first
        add_verdicts(card, result)
        text = card.read_text()
        assert text.startswith("# heads\n\n## Assessment\n\n| question |")
        assert text.count("## Assessment") == 1
        assert "| Do the volumes follow their labels? | good | All 3 measured volumes do" in text
