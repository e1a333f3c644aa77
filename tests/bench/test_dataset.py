"""The text of the comparison of datasets, and the sizes of their masks."""

from __future__ import annotations

from bench import dataset
from bench.dataset import Run


def test_sizes_are_different_and_the_smallest_come_first() -> None:
    sizes = dataset.sizes(20)
    assert len(set(sizes)) == 20
    assert sizes[0] == (64, 64, 64) and (96, 96, 96) not in sizes


def test_the_rate_of_each_contender_is_divided_by_that_of_the_other_revision() -> None:
    same, other = {"case-00": "a"}, {"case-00": "b"}
    rounds = [
        {"v1": Run(200.0, same), "this": Run(100.0, same), "this, bfloat16": Run(50.0, other)},
        {"this": Run(80.0, same), "this, bfloat16": Run(25.0, other), "v1": Run(200.0, same)},
        {"v1": Run(160.0, same), "this": Run(100.0, same), "this, bfloat16": Run(40.0, other)},
    ]
    options = dataset._parser().parse_args(["--against=v1", "--rows=60", "--bfloat16"])
    lines = dataset.text(options, rounds).splitlines()
    assert "| this | 100 s | 2160 |" in lines
    assert lines[-3:] == [
        "Rate of *this* divided by the rate of *v1*, by rounds: 2.00, 2.50, 1.60; median 2.00."
        " The volumes are the same, byte for byte.",
        "",
        "Rate of *this, bfloat16* divided by the rate of *v1*, by rounds: 4.00, 8.00, 4.00;"
        " median 4.00. The volumes are not the same, byte for byte.",
    ]
