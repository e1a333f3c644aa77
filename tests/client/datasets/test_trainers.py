"""Datasets as nnU-Net and the validator of BIDS take them, each in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from maisi_client import Client

from tests.client.datasets.sets import make, plan
from tests.docker import tools

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("faithful"), pytest.mark.timeout(1800)]
CHANNELS = ["mri_t1", "mri_flair"]
NAME = "Dataset501_Synthetic"
CASES, ANATOMIES = 24, 8

# Print the names of both sides of each fold, as nnU-Net's trainer uses them.
SPLIT = """
import json
import torch
from nnunetv2.run.run_training import get_trainer_from_args

for fold in range(5):
    trainer = get_trainer_from_args("501", "3d_fullres", fold, device=torch.device("cpu"))
    train, val = trainer.do_split()
    print("FOLD", json.dumps([sorted(train), sorted(val)]))
"""
PLAN = """
import sys
from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import plan_and_preprocess_entry

if __name__ == "__main__":  # its processes import this
    plan_and_preprocess_entry()
"""


def run_nnunet(folder: Path, script: str, *words: object) -> str:
    path = folder / "script.py"
    path.write_text(script)
    places = ("raw", "preprocessed", "results")
    for place in places:
        (folder / place).mkdir(exist_ok=True)
    env = {f"nnUNet_{place}": str(folder / place) for place in places}
    return tools.run(tools.nnunet(), path, *words, folder=folder, env={**os.environ, **env})


def test_nnunet_plans_and_splits_by_anatomy(client: Client, tmp_path: Path) -> None:
    to = tmp_path / "raw" / NAME
    states = make(client, plan(tmp_path, CASES, ANATOMIES), to, layout="nnunet", channels=CHANNELS)
    assert states == ["done"] * CASES
    options = ("-d", "501", "--verify_dataset_integrity", "-c", "3d_fullres", "-npfp", "1")
    run_nnunet(tmp_path, PLAN, *options, "-np", "1")
    done = tmp_path / "preprocessed" / NAME
    assert len(list((done / "nnUNetPlans_3d_fullres").glob("*.pkl"))) == CASES
    plans: Any = json.loads((done / "nnUNetPlans.json").read_text())
    schemes = plans["configurations"]["3d_fullres"]["normalization_schemes"]
    assert schemes == ["ZScoreNormalization"] * len(CHANNELS)

    masks = {}
    for path in (to / "reports").glob("*.json"):
        report = json.loads(path.read_text())
        masks[report["name"]] = report["sha256"]["mask"]
    assert len(set(masks.values())) == ANATOMIES
    lines = run_nnunet(tmp_path, SPLIT).splitlines()
    folds = [json.loads(line.removeprefix("FOLD")) for line in lines if line.startswith("FOLD")]
    assert len(folds) == 5
    for train, val in folds:
        assert sorted(train + val) == sorted(masks) and val
        assert not {masks[name] for name in train} & {masks[name] for name in val}


@pytest.mark.parametrize(
    "options", [{"channels": CHANNELS}, {"channels": ["mri_t1_skull_stripped", "mri_swi"]}, {}]
)
def test_the_validator_of_bids_finds_no_error(
    client: Client, tmp_path: Path, options: dict[str, Any]
) -> None:
    to = tmp_path / "bids"
    rows = plan(tmp_path, 4, 2)
    bad = plan(tmp_path, 5, 2, steps=0)[-1:]
    assert make(client, rows + bad, to, layout="bids", **options) == ["done"] * 4 + ["failed"]
    command = [*tools.bids_validator(), to, "--recursive", "--format", "json"]
    result = subprocess.run(command, capture_output=True, text=True)
    answer: Any = json.loads(result.stdout)
    found = [answer["issues"], *(one["issues"] for one in answer["derivativesSummary"].values())]
    issues = [issue for part in found for issue in part["issues"]]
    errors = [issue for issue in issues if issue["severity"] == "error"]
    assert (errors, result.returncode) == ([], 0), errors[:3]
    assert len(found) == 2 and answer["summary"]["subjects"] == ["mask0", "mask1"]
