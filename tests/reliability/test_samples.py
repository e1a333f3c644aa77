"""What counts as flat in a series of samples."""

from __future__ import annotations

import random
from collections.abc import Callable

from reliability.samples import Sample, growth


def is_flat(memory: Callable[[int], float], descriptors: Callable[[int], float]) -> bool:
    """Return whether a run of 300 samples counts as flat."""
    samples = [
        Sample(
            2.0 * n,
            {("memory", "server"): memory(n), ("descriptors", "server"): descriptors(n)},
        )
        for n in range(300)
    ]
    return all(each.flat for each in growth(samples).values())


def test_what_settles_is_flat_and_what_leaks_is_not() -> None:
    chance = random.Random(1)
    assert is_flat(lambda n: 3e8 + 1e8 * min(n / 90, 1) + 3e7 * chance.random(), lambda n: 20)
    assert not is_flat(lambda n: 3e8 + 2e5 * n, lambda n: 20)
    assert not is_flat(lambda n: 3e8, lambda n: 20 + n // 30)
