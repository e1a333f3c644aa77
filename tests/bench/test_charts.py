"""Charts of the benchmarks: drawn from the measurements that are kept, and shown on the page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import charts, levels, modes, page
from bench.bars import Bar, Chart, Panel, draw, tick_step

PAGES = page.PAGE.read_text() + modes.PAGE.read_text()
RESULTS = sorted(charts.RESULTS.glob("*.json"))
LEVEL = {"transport": "gRPC", "volumes_per_s": 2.0, "p50": 500.0, "p95": 1234.0}
LOAD: dict[str, Any] = {
    "benchmark": "load",
    "variant": "mini",
    "rows": [
        {"endpoint": "stream", "load": "1 at once", **LEVEL},
        {"endpoint": "stream", "load": "9/s", **dict.fromkeys(LEVEL), "transport": "gRPC"},
    ],
}


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_chart_is_up_to_date_and_on_the_page(path: Path) -> None:
    picture = charts.IMAGES / f"bench-{path.stem}.svg"
    assert picture.read_text() == charts.picture(path), "run scripts/write figures"
    assert f"](../images/{picture.name})" in PAGES


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_the_measurements_are_those_of_the_table(path: Path) -> None:
    results = json.loads(path.read_text())
    sections = re.split(r"(?m)^## ", PAGES)
    (section,) = (section for section in sections if f"bench-{path.stem}.svg" in section)
    assert results["machine"] in section
    for part in table_parts(results):
        assert part in section


def table_parts(results: dict[str, Any]) -> Iterator[str]:
    """Yield what the table has of these measurements."""
    if results["benchmark"] == "load":
        yield levels.table([levels.LevelResult(**row) for row in results["rows"]])
    for row in results["rows"] if results["benchmark"] == "decode" else ():
        yield f"| {row['size']}³ | {charts.way_title(row['way'])} | {row['seconds']:.1f} | "
    if results["benchmark"] == "modes":
        yield modes.text(results)
    for contender in results.get("contenders", {}).values():
        for key in ("first_request", "total"):
            times = contender["seconds"][key]
            yield f"| {times['median']:.3g} ({times['min']:.3g} to {times['max']:.3g}) |"


def test_a_level_without_an_answer_has_no_bar() -> None:
    throughput, latency = charts.chart(LOAD).panels
    assert throughput.series == {"stream": [Bar(2.0), None]}
    assert latency.series == {"stream": [Bar(500.0, 500.0, 1234.0), None]}
    assert latency.categories == ["1 at once", "9/s"]


def test_measurements_are_kept_with_their_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charts, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(charts, "IMAGES", tmp_path)
    assert charts.write("load", LOAD) == "![Load on mini, gRPC](../images/bench-load.svg)"
    assert json.loads((tmp_path / "results" / "load.json").read_text()) == LOAD
    assert ">500<" in (tmp_path / "bench-load.svg").read_text()


def test_the_length_of_a_bar_is_its_value() -> None:
    picture = draw(Chart("a < b", [Panel("s", ["x", "y"], {"t": [Bar(40), Bar(10)]})]))
    longer, shorter = (
        float(width) for width in re.findall(r'<rect class="a"[^>]* width="([\d.]+)"', picture)
    )
    assert longer == pytest.approx(4 * shorter)
    assert "a &lt; b" in picture


@pytest.mark.parametrize(("largest", "step"), [(1.94, 0.5), (5, 1), (221, 50), (4862, 1000)])
def test_ticks_are_round_numbers(largest: float, step: float) -> None:
    assert tick_step(largest) == pytest.approx(step)
