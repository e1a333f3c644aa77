"""Plans with the distribution of a cohort's metadata."""

from __future__ import annotations

import csv
import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from maisi_client import Client, InvalidRequest, Variant, plan_like, read_plan, write_plan
from maisi_client._datasets.cohort import MR_RATE_LICENSE
from maisi_client._variant import parse_variant

from export.variant import load
from tests.client.command import maisi
from tests.conftest import Server

# The beginning and the order of the columns, as the dataset's guide has them; an age is there to be
# passed over.
COLUMNS = (
    *("patient_uid", "study_uid", "series_id", "classified_modality", "is_derived"),
    *("acquisition_plane", "SeriesNumber", "array_shape", "array_spacing_mm", "array_fov_mm"),
    "Patient'sAge",
)
NAMES = {"T1w": "mri_t1", "T2w": "mri_t2", "FLAIR": "mri_flair", "SWI": "mri_swi"}
RIGHT, ANTERIOR, SUPERIOR = range(3)


def variant(name: str) -> Variant:
    return parse_variant(json.dumps(load(name).parameter({})))


def line(
    modality: str, plane: str, shape: Sequence[int], spacing: Sequence[float]
) -> dict[str, Any]:
    view = [side * mm for side, mm in zip(shape, spacing, strict=True)]
    made_up = {"patient_uid": "p", "study_uid": "s", "series_id": "i", "is_derived": "False"}
    return {
        **made_up,
        "classified_modality": modality,
        "acquisition_plane": plane,
        "SeriesNumber": "3.0",
        "array_shape": str(list(shape)),
        "array_spacing_mm": str(list(spacing)),
        "array_fov_mm": str(view),
        "Patient'sAge": "044Y",
    }


def table(path: Path, lines: Sequence[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(lines)
    return path


def random_lines(count: int, seed: int = 1) -> list[dict[str, Any]]:
    """Return random series: contrasts and planes in unequal shares, of 2-D and 3-D acquisitions.

    Fields of view are from 200 to 260 mm in the plane. A FLAIR's slices are thin where its field of
    view is large, so that the two go together.
    """
    chance = random.Random(seed)
    lines = []
    for _ in range(count):
        (modality, plane), *_ = chance.choices(
            [("T1w", "SAGITTAL"), ("T1w", "AXIAL"), ("T2w", "CORONAL"), ("FLAIR", "AXIAL")],
            [5, 3, 1, 2],
        )
        view = chance.uniform(200, 260)
        pixel = float(f"{view / 256:.7g}")
        if modality == "FLAIR":
            shape, spacing = [256, 256, 48], [pixel, pixel, 3.0 if view > 230 else 3.9]
        elif plane == "SAGITTAL" and chance.random() < 0.5:  # 3-D: stored right, anterior, superior
            shape, spacing = [160, 256, 256], [chance.uniform(1.1, 1.2), pixel, pixel]
        else:  # 2-D: slices last
            shape, spacing = [256, 256, 48], [pixel, pixel, chance.uniform(3, 4)]
        lines.append(line(modality, plane, shape, spacing))
    return lines


def views(rows: Sequence[Any]) -> list[list[float]]:
    return [
        [n * mm for n, mm in zip(row.arguments["size"], row.arguments["spacing"], strict=True)]
        for row in rows
    ]


def thickest(row: Any) -> int:
    return max(range(3), key=lambda axis: row.arguments["spacing"][axis])


SLICES = {"SAGITTAL": RIGHT, "CORONAL": ANTERIOR, "AXIAL": SUPERIOR}


def test_contrast_and_plane_keep_their_shares_and_grids_their_medians(tmp_path: Path) -> None:
    lines = random_lines(600)
    path, count = table(tmp_path / "metadata.csv", lines), 200
    cohort = plan_like([path], variant("rflow-mr-brain"), count, seed=4, steps=10)
    assert cohort.left_out == {} and len(cohort.rows) == count
    counts = Counter(
        (NAMES[one["classified_modality"]], SLICES[one["acquisition_plane"]]) for one in lines
    )
    planned = Counter((row.arguments["modality"], thickest(row)) for row in cohort.rows)
    assert planned.keys() == counts.keys()
    for key, times in counts.items():
        assert abs(planned[key] - count * times / len(lines)) < 1
    for key in counts:
        rows = [row for row in cohort.rows if (row.arguments["modality"], thickest(row)) == key]
        inside = [view[(key[1] + 1) % 3] for view in views(rows)]
        real = [
            json.loads(one["array_fov_mm"])[1]
            for one in lines
            if (NAMES[one["classified_modality"]], SLICES[one["acquisition_plane"]]) == key
        ]
        assert median(inside) == pytest.approx(median(real), rel=0.03)
    assert {row.arguments["steps"] for row in cohort.rows} == {10}
    assert {row.license for row in cohort.rows} == {MR_RATE_LICENSE}


def test_shape_and_spacing_are_drawn_together(tmp_path: Path) -> None:
    path = table(tmp_path / "metadata.csv", random_lines(400))
    rows = plan_like([path], variant("mini"), 150).rows
    flairs = [row for row in rows if row.arguments["modality"] == "mri_flair"]
    thin = {
        view[RIGHT] > 230: round(row.arguments["spacing"][SUPERIOR], 3)
        for row, view in zip(flairs, views(flairs), strict=True)
    }
    assert thin == {True: 3.0, False: 3.9}


# How a series is stored, and its field of view along right, anterior, superior.
STORED = {
    "axial": ("AXIAL", [256, 320, 32], [0.9, 0.7, 5.0], [230.4, 224.0, 160.0]),
    "sagittal 2-D": ("SAGITTAL", [320, 256, 32], [0.75, 1.0, 5.0], [160.0, 240.0, 256.0]),
    "sagittal 3-D": ("SAGITTAL", [160, 256, 240], [1.2, 1.0, 1.0], [192.0, 256.0, 240.0]),
    "sagittal isotropic": ("SAGITTAL", [176, 256, 240], [1.0, 1.0, 1.0], [176.0, 256.0, 240.0]),
    "coronal 2-D": ("CORONAL", [256, 224, 40], [0.9, 0.9, 5.0], [230.4, 200.0, 201.6]),
    "coronal 3-D": ("CORONAL", [256, 160, 224], [0.9, 1.3, 0.9], [230.4, 208.0, 201.6]),
}


@pytest.mark.parametrize("name", ["mini", "rflow-mr", "rflow-mr-brain"])
@pytest.mark.parametrize("stored", STORED.values(), ids=STORED.keys())
def test_axes_are_turned_and_the_field_of_view_is_kept(
    tmp_path: Path, name: str, stored: tuple[str, list[int], list[float], list[float]]
) -> None:
    plane, shape, spacing, view = stored
    path = table(tmp_path / "metadata.csv", [line("T1w", plane, shape, spacing)])
    server = variant(name)
    (row,) = plan_like([path], server, 1).rows
    assert views([row])[0] == pytest.approx(view, abs=0.01)
    _allowed(row, server)


def _allowed(row: Any, server: Variant) -> None:
    size, spacing = row.arguments["size"], row.arguments["spacing"]
    for axis in range(3):
        assert size[axis] % server.size["multiple"] == 0
        assert server.size["min"][axis] <= size[axis] <= server.size["max"][axis]
        assert server.spacing["min"][axis] <= spacing[axis] <= server.spacing["max"][axis]
    assert math.prod(size) <= server.size["max_voxels"]


@pytest.mark.parametrize("name", ["mini", "rflow-mr", "rflow-mr-brain"])
def test_limits_hold_over_all_that_the_dataset_admits(tmp_path: Path, name: str) -> None:
    # The guide: 16 voxels and more, 140 to 350 mm, along every axis.
    chance, lines = random.Random(5), []
    for _ in range(300):
        shape = [chance.randint(16, 1024) for _ in range(3)]
        spacing = [chance.uniform(140, 350) / side for side in shape]
        lines.append(line("T2w", chance.choice(["AXIAL", "CORONAL", "SAGITTAL"]), shape, spacing))
    server = variant(name)
    cohort = plan_like([table(tmp_path / "metadata.csv", lines)], server, len(lines))
    for row in cohort.rows:
        _allowed(row, server)
    # Every series was planned once, with its own field of view, or is said to be left out.
    lengths = sorted(sum(view) for view in views(cohort.rows))
    real = sorted(sum(json.loads(one["array_fov_mm"])) for one in lines)
    assert cohort.left_out == {} and lengths == pytest.approx(real, abs=0.02)


def test_what_cannot_be_planned_is_counted(tmp_path: Path) -> None:
    grid = ([256, 256, 32], [0.9, 0.9, 5.0])
    first = table(tmp_path / "batch00.csv", [line("T1w", "AXIAL", *grid)] * 3)
    lines = [line("MRA", "AXIAL", *grid)] * 2 + [line("T1w", "OBLIQUE", *grid)]
    lines += [line("PDw", "AXIAL", *grid), line("T1w", "AXIAL", [64, 64, 64], [0.1, 9.0, 9.0])]
    second = table(tmp_path / "batch01.csv", lines)
    cohort = plan_like([first, second], variant("mini"), 5)
    assert len(cohort.rows) == 5
    assert cohort.left_out == {
        "contrast 'MRA', which 'mini' lacks": 2,
        "plane 'OBLIQUE', which is none of AXIAL, CORONAL, SAGITTAL": 1,
        "contrast 'PDw', which 'mini' lacks": 1,
        "a field of view that no grid of 'mini' has": 1,
    }
    cohort = plan_like([first, second], variant("rflow-mr-brain"), 50)
    assert Counter(row.arguments["modality"] for row in cohort.rows) == {
        "mri_t1": 30,
        "mri_mra": 20,
    }


@pytest.mark.parametrize("name", ["plan.csv", "plan.jsonl"])
def test_the_plan_is_the_same_bytes_and_carries_the_licence(tmp_path: Path, name: str) -> None:
    path, server = table(tmp_path / "metadata.csv", random_lines(50)), variant("mini")
    rows = plan_like([path], server, 20, seed=2).rows
    plan = write_plan(rows, tmp_path / name)
    assert read_plan(plan) == rows
    assert plan.read_text().count("CC-BY-NC-SA-4.0") == 20
    again = write_plan(plan_like([path], server, 20, seed=2).rows, tmp_path / f"again-{name}")
    assert again.read_bytes() == plan.read_bytes()
    assert plan_like([path], server, 20, seed=3).rows != rows


def test_a_table_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metadata.csv"
    grid = ([256, 256, 32], [0.9, 0.9, 5.0])
    good = line("T1w", "AXIAL", *grid)
    wrong = [
        ([{**good, "array_shape": "256x256"}], "line 2: array_shape is '256x256'; three numbers"),
        ([good, {**good, "array_shape": "[1, 2]"}], r"line 3: array_shape is '\[1, 2\]'"),
        ([{**good, "array_spacing_mm": "[1, NaN, 1]"}], "array_spacing_mm is '.1, NaN, 1.'"),
        ([line("MRA", "AXIAL", *grid)], "can be planned: 1 have contrast 'MRA', which 'mini' lack"),
        ([], "no series of '.*metadata.csv' can be planned: there is none"),
    ]
    for lines, sentence in wrong:
        with pytest.raises(InvalidRequest, match=sentence):
            plan_like([table(path, lines)], variant("mini"), 1)
    path.write_text("classified_modality,acquisition_plane,array_shape\n")
    with pytest.raises(InvalidRequest, match="has no column array_spacing_mm; classified_modality"):
        plan_like([path], variant("mini"), 1)
    with pytest.raises(InvalidRequest, match=r"table '.*nowhere' cannot be read: .*No such file"):
        plan_like([tmp_path / "nowhere"], variant("mini"), 1)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_as_a_spreadsheet_saves_it(tmp_path: Path, separator: str) -> None:
    path = table(tmp_path / "table.csv", [line("T1w", "AXIAL", [32, 32, 32], [4.5, 4.5, 5.0])] * 2)
    plain = plan_like([path], variant("mini"), 2)
    with path.open(newline="") as file:
        head, *rows = csv.reader(file)
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerows([[*head, ""], [""] * 12, rows[0], [" "] * 12, rows[1], [""] * 12])
    assert plan_like([path], variant("mini"), 2) == plain
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=separator).writerow(["p"] * 11)
    with pytest.raises(InvalidRequest, match="line 7: array_shape is 'p'"):
        plan_like([path], variant("mini"), 2)


@pytest.mark.parametrize("grid", [["1e300", "1", "1"], ["1e-300", "1", "1"], ["1" + "0" * 400] * 3])
def test_a_grid_of_no_scan(tmp_path: Path, grid: list[str]) -> None:
    cells = line("T1w", "AXIAL", [32, 32, 32], [4.5, 4.5, 5.0])
    for column in ("array_shape", "array_spacing_mm"):
        path = table(tmp_path / "table.csv", [{**cells, column: f"[{','.join(grid)}]"}])
        with pytest.raises(InvalidRequest, match=f"line 2: {column} is '.1"):
            plan_like([path], variant("mini"), 1)


def test_the_command_plans_what_the_server_takes(server: Server, tmp_path: Path) -> None:
    lines = [line("T1w", "CORONAL", [32, 32, 32], [5.0, 5.0, 4.5])] * 2
    lines += [line("FLAIR", "AXIAL", [32, 32, 32], [4.5, 4.5, 5.0])]
    lines += [line("MRA", "AXIAL", [32, 32, 32], [4.5, 4.5, 5.0])]
    path, plan = table(tmp_path / "metadata.csv", lines), tmp_path / "plan.csv"
    words = ["plan", plan, "--like", path, "-n", "3", "--url", server.grpc]
    result = maisi(*words, "--steps", "1")
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{plan}: 3 rows of 3 anatomies, 1 mri_flair, 2 mri_t1\n"
    assert result.stderr.splitlines() == [
        "maisi: 1 series left out: contrast 'MRA', which 'mini' lacks",
        f"maisi: licence of the plan: {MR_RATE_LICENSE}",
    ]
    with Client(server.grpc) as client:
        reports = []
        for row in read_plan(plan):
            arguments = {key: value for key, value in row.arguments.items() if key != "seed"}
            reports.append(client.check(**arguments))
    assert Counter((one["modality"], *one["spacing"]) for one in reports) == {
        ("mri_t1", 5.0, 4.5, 5.0): 2,
        ("mri_flair", 4.5, 4.5, 5.0): 1,
    }
    assert all(one["size"] == one["padded_size"] and one["steps"] == 1 for one in reports)
    result = maisi(*words, "--variant", "maxi")
    assert (result.returncode, result.stderr) == (
        1,
        "maisi: the variant is 'maxi'; the server has mini\n",
    )
    result = maisi(*words, "--size", "32,32,32")
    assert result.stderr == "maisi: --size is given together with --like, which tells it\n"
