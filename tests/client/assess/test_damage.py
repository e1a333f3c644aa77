"""Each measure moves the right way under damage that is known, and an untouched half passes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from maisi_client._anatomy import NAMES
from maisi_client._assess import verdicts
from maisi_client._assess.bias import bias
from maisi_client._assess.diversity import Diversity, diversity
from maisi_client._assess.neighbours import overlap
from maisi_client._assess.privacy import privacy
from maisi_client._assess.realism import Realism, realism
from maisi_client._assess.sides import Side
from maisi_client._assess.summary import Obedience, obedience

Sets = dict[str, Side]
SIZES = (12, 12)


@pytest.fixture(scope="session")
def distance(sets: Sets) -> Callable[[str], Realism]:
    known: dict[str, Realism] = {}

    def measure(name: str) -> Realism:
        if name not in known:
            known[name] = realism(sets["real"], sets[name])
        return known[name]

    return measure


@pytest.fixture(scope="session")
def half(sets: Sets) -> Diversity:
    """Return the diversity of the untouched half."""
    return diversity(sets["untouched"], sets["real"])


def followed(sets: Sets, name: str) -> Obedience:
    result = obedience(sets[name], sets["real"], (NAMES, NAMES), 0)
    assert result is not None
    return result


def test_an_untouched_half_passes_every_question(
    sets: Sets, distance: Callable[[str], Realism], half: Diversity
) -> None:
    own, real, train = sets["untouched"], sets["real"], sets["train"]
    answers = [
        verdicts.of_realism(distance("untouched"), SIZES),
        verdicts.of_diversity(half, SIZES),
        verdicts.of_obedience(followed(sets, "untouched")),
        verdicts.of_privacy(privacy(own, train, real), SIZES),
        verdicts.of_bias(bias(own, real, (NAMES, NAMES)), True, SIZES),
    ]
    assert {answer.question: answer.level for answer in answers} == {
        answer.question: "good" for answer in answers
    }, answers


@pytest.mark.parametrize("damage", ["blurred", "noisy", "swapped"])
def test_damaged_volumes_are_farther_from_real_ones(
    distance: Callable[[str], Realism], damage: str
) -> None:
    before, after = distance("untouched"), distance(damage)
    assert after.fid.value > 3 * before.fid.value
    assert after.kid.value > max(0.0, before.kid.value)
    assert after.mmd.value > max(0.0, before.mmd.value)
    for measure in ("fid", "kid", "mmd"):
        assert getattr(after, measure).p < 0.01 < getattr(before, measure).p, measure
    verdict = verdicts.of_realism(after, SIZES)
    assert verdict.level == "poor" and "times that of other real slices" in verdict.sentence


def test_the_features_that_differ_are_named(distance: Callable[[str], Realism]) -> None:
    ratios = {name: one.ratio for name, one in distance("blurred").groups.items()}
    assert max(ratios, key=ratios.__getitem__) == "spectrum"
    ratios = {name: one.ratio for name, one in distance("swapped").groups.items()}
    assert max(ratios, key=ratios.__getitem__) == "intensity"


def test_the_interval_of_halves_holds_real_ones_only_where_they_are_alike(
    distance: Callable[[str], Realism],
) -> None:
    same, blurred = distance("untouched").fid, distance("blurred").fid
    assert same.synthetic[1] < same.real[2] and same.real[1] < same.synthetic[2]
    assert blurred.synthetic[1] > blurred.real[2]


def test_a_collapsed_set_is_all_alike(sets: Sets, half: Diversity) -> None:
    before = half
    after = diversity(sets["collapsed"], sets["real"])
    assert after.synthetic.low > before.synthetic.high
    assert after.duplicated == 1 and before.duplicated == 0
    assert before.overlap and after.overlap
    assert after.overlap.recall < before.overlap.recall
    assert after.overlap.coverage < before.overlap.coverage
    verdict = verdicts.of_diversity(after, SIZES)
    assert verdict.level == "poor" and verdict.sentence.startswith(
        "100% of the volumes have a near copy"
    )


def test_without_real_volumes_copies_are_still_found(sets: Sets) -> None:
    mixed = sets["untouched"]
    assert diversity(mixed, None).duplicated == 0
    twice = mixed.take([*range(len(mixed)), 0])
    found = diversity(twice, None)
    assert found.same_files == 2 and found.duplicates[0].distance == 0
    same = mixed.take([0] * 10)
    assert diversity(same, None).duplicated == 1
    real = sets["real"]
    with_twin = real.take([*range(len(real)), 0])
    assert diversity(twice, with_twin).duplicates and not diversity(mixed, with_twin).duplicates


def test_damaged_volumes_have_less_of_the_real_set(sets: Sets) -> None:
    for damage in ("blurred", "noisy", "swapped"):
        before, after = (
            overlap(sets["real"].means, sets[name].means) for name in ("untouched", damage)
        )
        assert after.precision < before.precision and after.density < before.density, damage


def test_volumes_with_the_masks_of_others_do_not_follow_them(sets: Sets) -> None:
    before, after = followed(sets, "untouched"), followed(sets, "shuffled")
    assert before.unfaithful == 0 and min(before.borders) > max(after.borders)
    assert after.unfaithful > 9
    assert np.mean([row.contrast for row in after.labels]) < np.mean(
        [row.contrast for row in before.labels]
    )
    verdict = verdicts.of_obedience(after)
    assert verdict.level == "poor" and "do not follow their labels" in verdict.sentence
    assert after.worst[0].borders == min(after.borders)


def test_a_copied_patient_is_named(sets: Sets) -> None:
    found = privacy(sets["copied"], sets["train"], sets["real"])
    assert [pair.name for pair in found.pairs if pair.suspicious] == ["case_0005"]
    assert found.pairs[0].training == "case_0003"
    verdict = verdicts.of_privacy(found, SIZES)
    assert verdict.level == "poor"
    assert "case_0005 (like case_0003)" in verdict.sentence


def test_no_verdict_on_privacy_says_safe(sets: Sets) -> None:
    for base in (sets["real"], None):
        found = privacy(sets["untouched"], sets["train"], base)
        sentence = verdicts.of_privacy(found, SIZES).sentence
        assert "safe" not in sentence and "does not prove" in sentence


def test_other_contrast_is_told_as_a_bias(sets: Sets) -> None:
    found = bias(sets["swapped"], sets["real"], (NAMES, NAMES))
    different = {one.name for one in found.quantities if one.differs}
    assert "contrast" in different and not any("field of view" in name for name in different)
    verdict = verdicts.of_bias(found, True, SIZES)
    assert verdict.level == "check" and "contrast is smaller" in verdict.sentence


def test_too_few_volumes_are_not_judged(sets: Sets) -> None:
    few = sets["blurred"].take(range(5))
    verdict = verdicts.of_realism(realism(sets["real"], few), (5, 12))
    assert verdict.level == "unknown" and "Too few volumes: 5" in verdict.sentence
