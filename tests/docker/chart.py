"""The chart of the server, rendered by helm."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import ROOT
from tests.docker import tools

CHART = ROOT / "docker" / "helm" / "maisi"
GOLDEN = Path(__file__).parent / "golden"
OPERATOR = Path(__file__).parent / "operator.yaml"
# Each is compared with a golden file: no values, those of an operator, the profiles.
CASES: dict[str, list[str]] = {
    "defaults": [],
    "operator": [f"--values={OPERATOR}"],
    **{path.stem: [f"--values={path}"] for path in sorted(CHART.glob("profiles/*.yaml"))},
}


def template(
    *args: str | Path, release: str = "maisi", chart: Path = CHART
) -> list[dict[str, Any]]:
    """Return the objects that helm makes of the chart in the namespace `imaging`."""
    text = tools.run(tools.helm(), "template", release, chart, "--namespace", "imaging", *args)
    return [document for document in yaml.safe_load_all(text) if document]


def notes(*args: str) -> str:
    """Return what helm prints after an installation in the namespace `imaging`."""
    words = (tools.helm(), "install", "maisi", CHART, "--namespace", "imaging")
    return tools.run(*words, "--dry-run=client", *args).partition("\nNOTES:\n")[2]


def refusal(*args: str) -> str:
    """Return what helm says of values that it must refuse."""
    words = [str(tools.helm()), "template", "maisi", str(CHART), *args]
    process = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert process.returncode != 0
    return process.stderr


def pods(documents: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    """Return the pods' specifications; KServe has each in two halves."""
    specifications, halves = [], {}
    for document in documents:
        if document["kind"] in (kinds or ("Deployment",)):
            specifications.append(document["spec"]["template"]["spec"])
        elif document["kind"] == "ServingRuntime":
            halves |= document["spec"]
        elif document["kind"] == "InferenceService":
            halves |= document["spec"]["predictor"]
    return [*specifications, *([halves] if halves else [])]
