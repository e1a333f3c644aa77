"""Masks are found by their labels and regions, and ordered by their grid."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from maisi_client import InvalidRequest, find_masks


def entry(name: str, labels: list[int], **more: Any) -> dict[str, Any]:
    grid = {"dim": [256, 256, 128], "spacing": [1.5, 1.5, 4.0]}
    return {"pseudo_label_filename": f"{name}.nii.gz", "label_list": labels, **grid, **more}


CHEST, ABDOMEN = [0, 1, 0, 0], [0, 0, 1, 0]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    entries = [
        entry("liver", [1, 3, 200], top_region_index=CHEST, bottom_region_index=ABDOMEN),
        entry("tumour", [1, 3, 26, 200], top_region_index=ABDOMEN, bottom_region_index=ABDOMEN),
        entry("fine", [1, 200], dim=[512, 512, 128], spacing=[0.8, 0.8, 2.5]),
        entry("small", [1, 200], dim=[128, 128, 128], spacing=[3, 3, 3]),
    ]
    path = tmp_path / "candidates.json"
    path.write_text(json.dumps(entries))
    return path


def names(*args: Any, **conditions: Any) -> list[str]:
    return [candidate.path.name.split(".")[0] for candidate in find_masks(*args, **conditions)]


def test_a_tumour_is_there_only_when_asked_for(database: Path) -> None:
    assert names(database, "masks", labels=[1, 3]) == ["liver"]
    assert names(database, "masks", labels=[1, 26]) == ["tumour"]
    assert names(database, "masks", labels=[5]) == []


def test_regions_have_to_lie_within(database: Path) -> None:
    assert names(database, "masks", labels=[3], regions=["chest", "abdomen"]) == ["liver"]
    assert names(database, "masks", labels=[3], regions=["lower"]) == []
    assert names(database, "masks", labels=[26], regions=["thorax"]) == []
    with pytest.raises(InvalidRequest, match="region is 'knee'; allowed are head, chest"):
        find_masks(database, "masks", regions=["knee"])


def test_the_nearest_grid_comes_first(database: Path) -> None:
    order = names(database, "masks", size=[512, 512, 128], spacing=[0.8, 0.8, 2.5])
    assert order == ["fine"]  # the others would have to grow by more than 128 voxels
    order = names(database, "masks", size=[256, 256, 128], spacing=[1.5, 1.5, 3.5])
    assert order == ["liver", "fine"]
    (first, *_) = find_masks(database, "masks", size=[256, 256, 128], spacing=[1.5, 1.5, 4])
    assert first.path == Path("masks/liver.nii.gz")
    assert (first.size, first.spacing) == ((256, 256, 128), (1.5, 1.5, 4.0))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "cannot be read"),
        ('{"a": 1}', "is not a list of masks"),
        ('[{"dim": [1, 2, 3]}]', "entry 0 of '.*' has no 'pseudo_label_filename'"),
        (json.dumps([entry("a", [1], dim=[1, 2])]), r"is not a mask: dim is \[1, 2\]; three sides"),
        (json.dumps([entry("a", [1], spacing=[0, 1, 1])]), "is not a mask: spacing is"),
        (
            json.dumps([entry("a", [1]), entry("b", [1.5])]),
            r"entry 1 of .* label_list is \[1.5\]; whole",
        ),
        (json.dumps([entry("a", [1], dim=[1, 2, 1e999])]), r"entry 0 of .* dim is \[1, 2, inf\]"),
        (json.dumps([entry("a", [1], dim=[1, 2, 10**400])]), "sides of 1 to 2147483647"),
        (json.dumps([entry("a", [1], spacing=10**400)]), "spacing is 1000"),
    ],
)
def test_a_damaged_database(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "candidates.json"
    path.write_text(text)
    with pytest.raises(InvalidRequest, match=sentence):
        find_masks(path, tmp_path)


def test_a_database_as_editors_save_it(tmp_path: Path) -> None:
    content = json.dumps([entry("a", [1.0, 3], dim=[256.0, 256, 128])])
    (tmp_path / "candidates.json").write_text("\ufeff" + content, encoding="utf-8")
    (candidate,) = find_masks(tmp_path / "candidates.json", tmp_path, labels=[1])
    assert (candidate.size, candidate.labels) == ((256, 256, 128), frozenset({1, 3}))
    assert {type(label) for label in candidate.labels} == {int}


def test_a_size_of_two_sides(database: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"size is \[1, 2\]; three whole numbers"):
        find_masks(database, "masks", size=[1, 2])


def test_the_command_prints_paths(database: Path) -> None:
    command = [sys.executable, "-m", "maisi_client", "find", str(database), "masks"]
    result = subprocess.run([*command, "--labels", "1,3"], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "masks/liver.nii.gz\n")
    result = subprocess.run([*command, "--labels", "77"], capture_output=True, text=True)
    assert result.returncode == 1
    assert "no mask" in result.stderr
