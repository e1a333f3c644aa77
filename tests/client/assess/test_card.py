"""The dataset card, and the assessment at the end of `maisi dataset`."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import pytest
import yaml
from maisi_client import InvalidRequest
from maisi_client._assess.card import write_card
from maisi_client._assess.run import assess
from maisi_client._cli import dataset, main


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
    (folder / "dataset.json").write_text(json.dumps({"licence": "Apache-2.0"}))
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
    assert report["obedience"]["reported"] == {"faithful": 3, "unfaithful": 0, "silent": 0}
    assert report["bias"]["modalities"] == {"SYNTHETIC": {"mri_t1": 3}}


def test_the_card_has_metadata_origin_and_verdicts(made: Path, tmp_path: Path) -> None:
    assert main(["assess", str(made), "--to", str(tmp_path / "r"), "--card", "--json"]) == 0
    _, head, text = (made / "README.md").read_text().split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["pretty_name"] == "heads" and metadata["license_name"] == "Apache-2.0"
    assert metadata["size_categories"] == ["n<1K"]
    assert metadata["task_categories"] == ["image-segmentation"] and "3d" in metadata["tags"]
    for line in (
        "- Licence: Apache-2.0",
        "- Variant: mini (3)",
        "- Seeds: 5, 6, 7; that of each volume is in its report",
        f"- Weights `flow.onnx`: SHA-256 `{'ab' * 32}`",
    ):
        assert line in text
    assert "| Do they follow their labels? | good | All 3 that were measured do" in text


def test_a_readme_of_another_is_kept(made: Path, tmp_path: Path) -> None:
    result = assess(made, to=tmp_path / "r")
    (made / "README.md").write_text("mine")
    with pytest.raises(InvalidRequest, match="is not by maisi assess"):
        write_card(made, result)
    assert (made / "README.md").read_text() == "mine"
    (made / "README.md").unlink()
    assert write_card(made, result) == write_card(made, result)
