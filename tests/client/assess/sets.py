"""Sets of volumes, described as the command does it, for tests of single measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from maisi_client._assess import sides
from maisi_client._assess.harmonising import Grid, Harmony, common
from maisi_client._assess.reading import read_dataset
from maisi_client._assess.record import Task
from maisi_client._assess.sides import Side

from tests.client.assess.phantoms import SHAPE, SPACING

HARMONY: Harmony = common("mr", [[Grid(SHAPE, (SPACING, SPACING, SPACING))]])


def described(folders: Mapping[str, Path], cache: Path, reference: str) -> dict[str, Side]:
    """Return the sets in `folders`, with features on the scale of the one called `reference`."""
    cache.mkdir(exist_ok=True)
    records: dict[str, Sequence[Path]] = {}
    names: dict[str, Sequence[str]] = {}
    for role, folder in folders.items():
        dataset = read_dataset(folder, role)
        tasks = [Task(item, HARMONY, dataset.label_names, None, cache) for item in dataset.items]
        outcomes = list(sides.describe_all(tasks, 1, lambda: None))
        assert [why for _, _, why in outcomes if why] == []
        records[role] = [path for _, path, _ in outcomes if path]
        names[role] = [item.name for item in dataset.items]
    project = sides.projection(records[reference], network=False)
    return {role: sides.gather(role, names[role], records[role], project) for role in folders}
