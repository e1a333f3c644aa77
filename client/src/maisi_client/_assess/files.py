"""Find the readable files of an assessment and their modality, and write their records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .._errors import InvalidRequest
from .._mask import load_greys
from .harmonising import Grid, Harmony, modality_of, read_grid
from .reading import Dataset, Item
from .record import Task
from .sides import describe_all

LEAST = 2  # least volumes of a dataset
_SAMPLE = 3  # volumes of each dataset that are read first to find its modality


def check_apart(datasets: Sequence[Dataset]) -> None:
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


def survey(dataset: Dataset, skipped: dict[str, str]) -> dict[Item, Grid]:
    """Return the grids of the volumes with readable headers; add the others to `skipped`."""
    grids = {}
    for item in dataset.items:
        try:
            grids[item] = read_grid(item.image)
        except InvalidRequest as error:
            skipped[item.name] = str(error)
    _check_number(dataset, len(grids), skipped)
    return grids


def modality(datasets: Sequence[Dataset], surveyed: Sequence[Mapping[Item, Grid]]) -> str:
    """Return `ct` or `mr`; raises `InvalidRequest` if the datasets have different modalities."""
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


def describe(
    datasets: Sequence[Dataset],
    surveyed: Sequence[Mapping[Item, Grid]],
    harmony: Harmony,
    network: Path | None,
    cache: Path,
    skipped: Mapping[str, dict[str, str]],
    processes: int,
    on_done: Callable[[float], None],
) -> list[dict[str, Path]]:
    """Describe all volumes; return the paths of the records of each dataset, by volume name.

    `on_done` is called with the fraction that is done. Volumes that cannot be read are added to
    `skipped`. Raises `InvalidRequest` if a dataset has fewer than `LEAST` readable volumes.
    """
    pairs = [(n, item) for n, grids in enumerate(surveyed) for item in grids]
    tasks = [Task(item, harmony, datasets[n].label_names, network, cache) for n, item in pairs]
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        on_done(done / len(tasks))

    paths: dict[int, Path] = {}
    for index, path, why in describe_all(tasks, processes, count):
        number, item = pairs[index]
        if path is None:
            skipped[datasets[number].role][item.name] = why
        else:
            paths[index] = path
    records: list[dict[str, Path]] = [{} for _ in datasets]
    for index in sorted(paths):
        number, item = pairs[index]
        records[number][item.name] = paths[index]
    for dataset, paths_by_name in zip(datasets, records, strict=True):
        _check_number(dataset, len(paths_by_name), skipped[dataset.role])
    return records


def _check_number(dataset: Dataset, number: int, skipped: Mapping[str, str]) -> None:
    if number < LEAST:
        name, why = f"{dataset.role} '{dataset.folder}'", next(iter(skipped.values()), "")
        counted = "1 volume" if number == 1 else "no volume"
        raise InvalidRequest(
            f"{name} has {counted} that can be read; {LEAST} or more are expected"
            + (f": {why}" if why else "")
        )
