"""The data file of the label vocabularies, and the names in its comments."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from export import variant

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = Path(variant.__file__).parent / "vocabularies.toml"
TABLES: dict[str, dict[str, int]] = tomllib.loads(FILE.read_text())
RFLOW_CT = variant.load("rflow-ct").serving
RFLOW_CT_PUBLISHED = variant.load("rflow-ct").parameter({})["vocabularies"]
LABELS: dict[str, str] = RFLOW_CT["labels"]
TOTAL = {
    int(label): (int(own), theirs, ours)
    for label, own, theirs, ours in re.findall(
        r"^(\d+) = (\d+)  # (\S+) -> (.+)$", FILE.read_text(), re.MULTILINE
    )
}


@pytest.mark.parametrize("name", TABLES)
def test_every_target_is_a_label_with_a_meaning(name: str) -> None:
    for own in TABLES[name].values():
        assert own != 0
        assert not LABELS[str(own)].startswith("dummy")


@pytest.mark.parametrize("name", TABLES)
def test_no_two_ids_become_one(name: str) -> None:
    assert len(set(TABLES[name].values())) == len(TABLES[name])


def test_total_segmentator_has_117_classes() -> None:
    assert list(TABLES["totalsegmentator-v2"]) == [str(label) for label in range(1, 118)]
    assert {str(label): own for label, (own, _, _) in TOTAL.items()} == TABLES[
        "totalsegmentator-v2"
    ]


# totalsegmentator/map_to_binary.py of wasserth/TotalSegmentator v2.18.0, read by eye.
@pytest.mark.parametrize(
    ("label", "theirs"),
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
def test_classes_of_total_segmentator(label: int, theirs: str) -> None:
    assert TOTAL[label][1] == theirs


def test_names_agree_word_for_word_and_side_for_side() -> None:
    for own, theirs, ours in TOTAL.values():
        assert LABELS[str(own)] == ours
        assert set(theirs.split("_")) - {"urinary"} == set(ours.split())


def test_the_classes_of_the_mask_generator_are_its_labels() -> None:
    own = TABLES["maisi-124"]
    assert [0, *own.values()] == RFLOW_CT["mask_labels"]
    assert list(own) == [str(label) for label in range(1, 125)]


def test_what_is_published_says_the_same() -> None:
    for name, ids in RFLOW_CT_PUBLISHED.items():
        assert {str(label): own for label, own in enumerate(ids) if own} == TABLES[name]
        assert ids[0] == 0
