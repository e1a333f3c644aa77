"""What an assessment holds in memory of each volume: small vectors and numbers, no pictures."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

from maisi_client._assess import numbers, run
from maisi_client._assess.page import write_page
from maisi_client._assess.reading import read_dataset
from maisi_client._assess.sides import Side

from tests.client.assess.sets import HARMONY

SETTINGS = {"seed": 0, "features": "built-in"}
MOST = 48_000  # bytes of a volume with 30 labels; its coarse volume alone has 110,592


def peak(folder: Path, record: Path, volumes: int, to: Path) -> int:
    """Return the most bytes at once of an assessment of so many volumes with one record."""
    dataset = read_dataset(folder, "SYNTHETIC")
    records = {f"case_{number}": record for number in range(volumes)}
    tracemalloc.start()
    try:
        results = run._measure([dataset], [records], False, 0, None, lambda progress: None)
        verdicts = run._judge(results)
        report = numbers.document(
            results, verdicts, [dataset], HARMONY, SETTINGS, {"SYNTHETIC": {}}
        )
        write_page(to / "report.html", results, verdicts, report)
        numbers.write(to / "report.json", report)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_grows_by_less_than_a_coarse_volume(
    folders: dict[str, Path], sets: dict[str, Side], tmp_path: Path
) -> None:
    record = sets["untouched"].records[0]
    few, many = (peak(folders["untouched"], record, n, tmp_path) for n in (40, 160))
    assert (many - few) / 120 < MOST
