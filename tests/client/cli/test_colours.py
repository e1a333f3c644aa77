"""The colour table for 3D Slicer: the labels' own names and colours."""

from __future__ import annotations

from maisi_client._anatomy import NAMES
from maisi_client._colours import colour
from maisi_client._label_names import label_id

from tests.client.command import maisi


def test_the_table_is_that_of_the_pictures() -> None:
    result = maisi("colours")
    assert (result.returncode, result.stderr) == (0, "")
    title, count, background, *lines = result.stdout.splitlines()
    assert title.startswith("# Color table file") and background == "0 background 0 0 0 0"
    assert count == f"# {len(lines) + 1} values" and len(lines) == len(NAMES)
    for line in lines:
        id_, name, *colours = line.split(" ")
        assert label_id(name) == int(id_)
        red, green, blue, opacity = map(int, colours)
        assert f"#{red:02x}{green:02x}{blue:02x}" == colour(int(id_)) and opacity == 255
