"""Step `export`: write the weights and build the model repositories for the other steps."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from bench import ROOT
from bench.acceptance import machine
from bench.acceptance.loading import TARGETS
from bench.acceptance.steps import Case, NotDone, Setting, TableRows
from bench.in_process import REPOSITORY
from export import build, random_weights, variant
from export.job import Job
from export.variant import PRECISIONS


def checkpoints(setting: Setting, name: str) -> Path:
    """Return the folder of a variant's checkpoints."""
    shipped = ROOT / "export" / "checkpoints"
    return shipped if name == "mini" else setting.folder / "checkpoints" / name


def models(setting: Setting, name: str, target: str, precision: str) -> Path:
    """Return the model repository of a variant."""
    if (name, target, precision) == ("mini", "onnx", "fp32"):
        return REPOSITORY
    return setting.folder / f"{name}-{target}-{precision}"


def version_folder(setting: Setting, name: str, graph: str, engine: str, precision: str) -> Path:
    """Return the version folder of a graph for an engine; raise NotDone if it does not exist."""
    folder = models(setting, name, TARGETS[engine], precision) / f"{name}.{graph}" / "1"
    if not folder.is_dir():
        raise NotDone(f"{name}.{graph} was not exported for {engine} in {precision}")
    return folder


def cases(setting: Setting) -> list[Case]:
    """Return the cases of this step."""
    targets = dict.fromkeys(TARGETS[name] for name in machine.engine_names(setting))
    return [
        Case(f"{name} {target} {precision}", partial(_build, setting, name, target, precision))
        for name in setting.variants
        for target in (targets or {"onnx": None})
        for precision in PRECISIONS
    ]


def _build(setting: Setting, name: str, target: str, precision: str) -> TableRows:
    subject, folder = variant.load(name), checkpoints(setting, name)
    if not all((folder / file).is_file() for file in subject.checkpoints.values()):
        random_weights.write(subject, folder)
    repository = models(setting, name, target, precision)
    if repository == REPOSITORY:
        return [{"graphs": "as shipped"}]
    job = Job(subject, folder, repository, setting.folder / "cache", target, precision)
    graphs = build.build(job, lambda line: None)["graphs"]
    worst = max(graph["relative_error"] for graph in graphs.values())
    return [{"graphs": len(graphs), "relative error on the CPU": worst}]
