"""Slabs of any thickness give the result of the whole volume, with subgraphs in numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.slabs import chain
from backends.slabs.arena import Arena, in_files
from backends.slabs.chain import Chain, Subgraph
from tests.backends.slabs.blur import Blur

Array = np.ndarray[Any, Any]


def blurs(scale: float = 1.0, groups: int = 2) -> Chain:
    """Return three subgraphs, two with a norm, the last one with the first one's output."""
    return Chain(
        "in",
        "c",
        {"in": 2, "a": 2, "b": 2, "c": 2},
        {"in": 4, "a": 4, "b": 4, "c": 4},
        4,
        (
            Subgraph(Blur(scale), "in", "a", None, None, 0, False),
            Subgraph(Blur(), "a", "b", None, None, groups, False),
            Subgraph(Blur(), "b", "c", "a", None, groups, False),
        ),
    )


def whole(x: Array, groups: int) -> Array:
    """Return the result of `blurs` on the whole volume."""

    def blur(x: Array) -> Array:
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0), (0, 0)))
        return padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + 4 * padded[:, :, 2:]

    def norm(x: Array) -> Array:
        grouped = x.reshape(1, groups, -1)
        normalized = (grouped - grouped.mean(2, keepdims=True)) / grouped.std(2, keepdims=True)
        return normalized.reshape(x.shape)

    a = blur(x.astype(np.float64))
    return blur(norm(blur(norm(a)))) + a


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("thickness", [1, 2, 3, 5, 8])
def test_any_thickness_gives_the_result_of_the_whole(thickness: int, groups: int) -> None:
    x = np.random.default_rng(0).normal(5, 2, (1, 4, 10, 3, 5)).astype(np.float32)
    output = chain.run(blurs(groups=groups), x, thickness, Arena(1 << 30))
    np.testing.assert_allclose(output, whole(x, groups), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("thickness", [1, 3, 8])
def test_an_output_is_converted_slab_by_slab(thickness: int) -> None:
    x = np.random.default_rng(0).normal(5, 2, (2, 4, 10, 4, 6)).astype(np.float32)
    arena, sides = Arena(1 << 30), []

    def convert(values: Array, levels: Array) -> None:
        sides.append(values.shape)
        np.rint(10 * values, out=values)
        levels[...] = values

    output = chain.run(blurs(), x, thickness, arena, convert)
    exact = chain.run(blurs(), x, thickness, Arena(1 << 30))
    assert output.dtype == np.int16
    assert (output == np.rint(10 * exact)).all()
    assert {planes for planes, *_ in sides} <= {2 * thickness, 10 % (2 * thickness), 10}
    assert arena.near_bytes == 0


def test_activations_that_do_not_fit_lie_in_files_which_are_deleted(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(5, 2, (1, 4, 64, 16, 16)).astype(np.float32)
    near, far = Arena(1 << 30), Arena(400_000, far=in_files(tmp_path))
    limited, expected = blurs(), chain.run(blurs(), x, 4, near)
    assert near.near_peak > 600_000 and near.spilled == 0
    output = chain.run(limited, x, 4, far)
    assert output.tobytes() == expected.tobytes()
    assert far.near_peak <= 400_000 and far.spilled > 0
    assert near.near_bytes == far.near_bytes == 0
    assert list(tmp_path.iterdir()) == []
    engines: list[Any] = [subgraph.engine for subgraph in limited.subgraphs]
    assert [engine.calls for engine in engines] == [8, 8, 8]
    assert [engine.released for engine in engines] == [1, 1, 1]


def test_moments_of_unequal_parts_are_those_of_the_whole() -> None:
    x = np.random.default_rng(1).normal(1000, 1e-2, (6, 700))  # squares would lose all digits
    parts = [
        (part.shape[1], part.mean(1).astype(np.float32), part.var(1).astype(np.float32))
        for part in np.split(x, [100, 350], 1)
    ]
    output = chain.merge(parts, 3)
    groups = x.reshape(3, -1)
    np.testing.assert_allclose(output["mean"], groups.mean(1).repeat(2), rtol=1e-6)
    np.testing.assert_allclose(output["variance"], groups.var(1).repeat(2), rtol=2e-2)
    assert output["mean"].dtype == output["variance"].dtype == np.float32


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_propagate(bad: float) -> None:
    x = np.random.default_rng(0).normal(size=(1, 4, 6, 2, 2)).astype(np.float32)
    x[0, 0, 0, 0, 0] = bad
    with np.errstate(invalid="ignore"):
        output = chain.run(blurs(groups=1), x, 1, Arena(1 << 30))
    assert np.isnan(output).all()


def test_a_damaged_description_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "chain.json"
    with pytest.raises(OSError, match="No such file"):
        chain.load(path, lambda stem: Blur())
    for damaged in ("{", "{}"):
        path.write_text(damaged)
        with pytest.raises((KeyError, ValueError)):
            chain.load(path, lambda stem: Blur())
