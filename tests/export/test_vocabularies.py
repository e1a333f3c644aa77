"""The data file of the label vocabularies, and the names in its comments."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from export import variant as variants

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = Path(variants.__file__).parent / "vocabularies.toml"
TABLES: dict[str, dict[str, int]] = tomllib.loads(FILE.read_text())
RFLOW_CT = variants.load("rflow-ct").serving
RFLOW_CT_PUBLISHED = variants.load("rflow-ct").parameter({})["vocabularies"]
LABELS: dict[str, str] = RFLOW_CT["labels"]
TOTAL = {
    int(label): (int(maisi_id), their_name, maisi_name)
    for label, maisi_id, their_name, maisi_name in re.findall(
        r"^(\d+) = (\d+)  # (\S+) -> (.+)$", FILE.read_text(), re.MULTILINE
    )
}


@pytest.mark.parametrize("name", TABLES)
def test_every_target_is_a_label_with_a_meaning(name: str) -> None:
    for maisi_id in TABLES[name].values():
        assert maisi_id != 0
        assert not LABELS[str(maisi_id)].startswith("dummy")


@pytest.mark.parametrize("name", TABLES)
def test_no_two_ids_become_one(name: str) -> None:
    assert len(set(TABLES[name].values())) == len(TABLES[name])


def test_total_segmentator_has_117_classes() -> None:
    assert list(TABLES["totalsegmentator-v2"]) == [str(label) for label in range(1, 118)]
    assert {str(label): maisi_id for label, (maisi_id, _, _) in TOTAL.items()} == TABLES[
        "totalsegmentator-v2"
    ]


# totalsegmentator/map_to_binary.py of wasserth/TotalSegmentator v2.18.0, read by eye.
@pytest.mark.parametrize(
    ("label", "their_name"),
    {
        1: "spleen",
        2: "kidney_right",
        5: "liver",
        10: "lung_upper_lobe_left",
        26: "vertebrae_S1",
        50: "vertebrae_C1",
        51: "heart",
        55: "subclavian_artery_right",
        64: "portal_vein_and_splenic_vein",
        75: "femur_left",
        90: "brain",
        92: "rib_left_1",
        104: "rib_right_1",
        117: "costal_cartilages",
    }.items(),
)
def test_classes_of_total_segmentator(label: int, their_name: str) -> None:
    assert TOTAL[label][1] == their_name


def test_names_agree_word_for_word_and_side_for_side() -> None:
    for maisi_id, their_name, maisi_name in TOTAL.values():
        assert LABELS[str(maisi_id)] == maisi_name
        assert set(their_name.split("_")) - {"urinary"} == set(maisi_name.split())


def test_the_classes_of_the_mask_generator_are_its_labels() -> None:
    table = TABLES["maisi-124"]
    assert [0, *table.values()] == RFLOW_CT["mask_labels"]
    assert list(table) == [str(label) for label in range(1, 125)]


def test_what_is_published_says_the_same() -> None:
    for name, ids in RFLOW_CT_PUBLISHED.items():
        table = {str(label): maisi_id for label, maisi_id in enumerate(ids) if maisi_id}
        assert table == TABLES[name]
        assert ids[0] == 0
