"""The whole assessment: read, describe, measure, judge, write."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._atomic import atomic
from .._errors import InvalidRequest
from .._mask import load_greys
from .._volume import Progress
from . import sides, verdicts
from .bias import Bias, bias
from .diversity import Diversity, diversity
from .harmonising import Grid, Harmony, common, modality_of, read_grid
from .numbers import document, text
from .page import write_page
from .privacy import Privacy, privacy
from .reading import Dataset, Item, read_dataset
from .realism import Realism, realism
from .record import Task
from .sides import Side
from .summary import Obedience, obedience
from .verdicts import Verdict

_LEAST = 2  # volumes of a side
_SAMPLE = 3  # volumes of a side whose values tell the modality before any work
_MEASURED = 0.85  # of the progress when all volumes are described


@dataclass(frozen=True)
class Results:
    """What was measured of a synthetic set; None what could not be."""

    realism: Realism | None
    diversity: Diversity
    obedience: Obedience | None
    privacy: Privacy | None
    bias: Bias
    synthetic: Side
    real: Side | None
    train: Side | None


@dataclass(frozen=True)
class Assessment:
    """Verdicts on a dataset, every number (`report`, as in `report.json`), and the page's path.

    `skipped` are the files that could not be read, with the reason, by the dataset they are of.
    """

    verdicts: tuple[Verdict, ...]
    report: Mapping[str, Any]
    page: Path
    skipped: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def assess(
    synthetic: str | os.PathLike[str],
    *,
    to: str | os.PathLike[str],
    real: str | os.PathLike[str] | None = None,
    train_set: str | os.PathLike[str] | None = None,
    features: str | os.PathLike[str] | None = None,
    processes: int = 1,
    seed: int = 0,
    on_progress: Callable[[Progress], None] | None = None,
) -> Assessment:
    """Measure a folder of synthetic volumes, and write `report.html` and `report.json` into `to`.

    `real` are real volumes that the model was not trained on, `train_set` those that it was: see
    docs/assess.md for what is measured of which. Folders are of any layout of `make_dataset`, or
    hold NIfTI files. `features` is the file of a network (TorchScript, or weights of a ResNet).
    What is known of each volume stays in `to/.volumes`, so that a run that is stopped, or repeated
    with more volumes, starts where it was. `processes` above 1 start new interpreters, which import
    the program's main module: guard it with `if __name__ == "__main__"`.

    Raises `InvalidRequest` for a folder without volumes, or with one; for CT beside MR.
    """
    say = on_progress or (lambda progress: None)
    say(Progress("reading", 0.0))
    folders = {"SYNTHETIC": synthetic, "--real": real, "--train-set": train_set}
    datasets = [read_dataset(path, role) for role, path in folders.items() if path is not None]
    _check_apart(datasets)
    skipped: dict[str, dict[str, str]] = {dataset.role: {} for dataset in datasets}
    surveyed = [_survey(dataset, skipped[dataset.role]) for dataset in datasets]
    harmony = common(_modality(datasets, surveyed), [list(one.values()) for one in surveyed])
    cache = Path(to) / ".volumes"
    cache.mkdir(parents=True, exist_ok=True)
    network = Path(features) if features is not None else None
    found = _describe(datasets, surveyed, harmony, network, cache, skipped, processes, say)
    say(Progress("measuring", _MEASURED))
    results = _measure(datasets, found, network is not None, seed, say)
    judged = _judge(results)
    settings = {"seed": seed, "features": os.fspath(network) if network else "built-in"}
    report = document(results, judged, datasets, harmony, settings, skipped)
    page = Path(to) / "report.html"
    write_page(page, results, judged, report)
    with atomic(Path(to) / "report.json") as draft:
        draft.write_text(text(report), encoding="utf-8")
    say(Progress("done", 1.0))
    return Assessment(judged, report, page, skipped)


def _check_apart(datasets: Sequence[Dataset]) -> None:
    """Raise `InvalidRequest` if two of the folders are the same."""
    seen: dict[Path, str] = {}
    for dataset in datasets:
        path = dataset.folder.resolve()
        if path in seen:
            raise InvalidRequest(
                f"{dataset.role} is '{dataset.folder}', the same folder as {seen[path]};"
                " different volumes are expected"
            )
        seen[path] = dataset.role


def _survey(dataset: Dataset, skipped: dict[str, str]) -> dict[Item, Grid]:
    """Return the grids of the volumes whose headers can be read."""
    grids = {}
    for item in dataset.items:
        try:
            grids[item] = read_grid(item.image)
        except InvalidRequest as error:
            skipped[item.name] = str(error)
    _check_number(dataset, len(grids), skipped)
    return grids


def _check_number(dataset: Dataset, number: int, skipped: Mapping[str, str]) -> None:
    if number < _LEAST:
        name, why = f"{dataset.role} '{dataset.folder}'", next(iter(skipped.values()), "")
        counted = "1 volume" if number == 1 else "no volume"
        raise InvalidRequest(
            f"{name} has {counted} that can be read, {_LEAST} or more are expected"
            + (f": {why}" if why else "")
        )


def _modality(datasets: Sequence[Dataset], surveyed: Sequence[Mapping[Item, Grid]]) -> str:
    """Return `ct` or `mr`; raises `InvalidRequest` if the datasets are not of one modality."""
    kinds = {}
    for dataset, grids in zip(datasets, surveyed, strict=True):
        votes = [dataset.modality] if dataset.modality else []
        for item in list(grids)[:_SAMPLE]:
            try:
                votes.append(modality_of(load_greys(item.image, "volume").values))
            except InvalidRequest:
                continue
        kinds[dataset.role] = max(set(votes), key=votes.count) if votes else "mr"
    first, *others = kinds.items()
    for role, kind in others:
        if kind != first[1]:
            raise InvalidRequest(
                f"{first[0]} is {first[1].upper()} and {role} is {kind.upper()} by their values;"
                " volumes of one modality are expected"
            )
    return first[1]


def _describe(
    datasets: Sequence[Dataset],
    surveyed: Sequence[Mapping[Item, Grid]],
    harmony: Harmony,
    network: Path | None,
    cache: Path,
    skipped: Mapping[str, dict[str, str]],
    processes: int,
    say: Callable[[Progress], None],
) -> list[dict[str, Path]]:
    """Describe all volumes; return the records of each dataset by the names of its volumes."""
    pairs = [(n, item) for n, grids in enumerate(surveyed) for item in grids]
    tasks = [Task(item, harmony, datasets[n].label_names, network, cache) for n, item in pairs]
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        say(Progress("describing", _MEASURED * done / len(tasks)))

    paths: dict[int, Path] = {}
    for index, path, why in sides.describe_all(tasks, processes, count):
        number, item = pairs[index]
        if path is None:
            skipped[datasets[number].role][item.name] = why
        else:
            paths[index] = path
    found: list[dict[str, Path]] = [{} for _ in datasets]
    for index in sorted(paths):
        number, item = pairs[index]
        found[number][item.name] = paths[index]
    for dataset, records in zip(datasets, found, strict=True):
        _check_number(dataset, len(records), skipped[dataset.role])
    return found


def _measure(
    datasets: Sequence[Dataset],
    found: Sequence[Mapping[str, Path]],
    network: bool,
    seed: int,
    say: Callable[[Progress], None],
) -> Results:
    roles = {dataset.role: number for number, dataset in enumerate(datasets)}
    reference = roles.get("--real", roles.get("--train-set", 0))
    project = sides.projection(list(found[reference].values()), network)
    gathered = {
        role: sides.gather(role, list(found[n]), list(found[n].values()), project)
        for role, n in roles.items()
    }
    synthetic, real = gathered["SYNTHETIC"], gathered.get("--real")
    train = gathered.get("--train-set")
    names = tuple(datasets[roles[role]].label_names for role in gathered if role != "--train-set")
    steps = ("realism", "diversity", "obedience", "privacy", "bias")

    def at(name: str) -> None:
        share = steps.index(name) / len(steps)
        say(Progress(name, _MEASURED + (0.99 - _MEASURED) * share))

    at("realism")
    real_enough = real is not None and min(len(real), len(synthetic)) >= 4
    distances = realism(real, synthetic, seed, network=network) if real and real_enough else None
    at("diversity")
    variety = diversity(synthetic, real, seed)
    at("obedience")
    follows = obedience(synthetic, real, names, datasets[0].unfaithful)
    at("privacy")
    copies = privacy(synthetic, train, held_out(real, train), seed) if train else None
    at("bias")
    shares = bias(synthetic, real, names)
    return Results(distances, variety, follows, copies, shares, synthetic, real, train)


def held_out(real: Side | None, train: Side) -> Side | None:
    """Return the real volumes that are not, by their bytes, in the training set; None if few."""
    if real is None:
        return None
    known = {facts["sha256"]["image"] for facts in train.facts}
    kept = [i for i, facts in enumerate(real.facts) if facts["sha256"]["image"] not in known]
    return real.take(kept) if len(kept) >= _LEAST else None


def _judge(results: Results) -> tuple[Verdict, ...]:
    sizes = [len(results.synthetic)] + ([len(results.real)] if results.real else [])
    private = [len(results.synthetic), *([len(results.train)] if results.train else [])]
    return (
        verdicts.of_realism(results.realism, sizes),
        verdicts.of_diversity(results.diversity, sizes),
        verdicts.of_obedience(results.obedience),
        verdicts.of_privacy(results.privacy, private),
        verdicts.of_bias(results.bias, results.real is not None, sizes),
    )
