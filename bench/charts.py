"""Draw the charts of the benchmark pages from the measurements in bench/results.

`scripts/bench NAME --write` writes the measurements and their chart. `scripts/write figures` draws
all charts again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import ROOT
from bench.bars import Bar, Chart, Panel, draw
from bench.comparison import TITLES

RESULTS = ROOT / "bench" / "results"
IMAGES = ROOT / "docs" / "images"


def write(name: str, results: dict[str, Any]) -> str:
    """Write the measurements and the chart of a benchmark; return the image link as Markdown."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    write_picture(path)
    return f"![{chart(results).title}](../images/bench-{name}.svg)"


def write_picture(path: Path) -> None:
    """Write the chart of a file of measurements to docs/images."""
    (IMAGES / f"bench-{path.stem}.svg").write_text(picture(path))


def picture(path: Path) -> str:
    """Return the chart of a file of measurements as SVG."""
    return draw(chart(json.loads(path.read_text())))


def chart(results: dict[str, Any]) -> Chart:
    """Return the chart of measurements; their key `benchmark` selects the kind of chart."""
    return _CHARTS[results["benchmark"]](results)


def _compare(results: dict[str, Any]) -> Chart:
    measured = {name: row for name, row in results["contenders"].items() if "seconds" in row}
    bars = {
        title: [
            Bar(*(row["seconds"][key][k] for k in ("median", "min", "max")))
            for row in measured.values()
        ]
        for title, key in (("first request", "first_request"), ("second volume", "total"))
    }
    panel = Panel("Seconds", [TITLES[name] for name in measured], bars)
    title = f"{results['variant']}, {results['size']}³, {results['steps']} steps"
    return Chart(f"Against upstream: {title}, median and range of {results['repeat']}", [panel])


def _decode(results: dict[str, Any]) -> Chart:
    panels = []
    for size in dict.fromkeys(row["size"] for row in results["rows"]):
        rows = [row for row in results["rows"] if row["size"] == size]
        titles = [way_title(row["way"]) for row in rows]
        seconds = [Bar(row["seconds"]) for row in rows]
        memory = [Bar(row["memory"] / 1e9) for row in rows]
        panels.append(Panel(f"{size}³: seconds", titles, {"seconds": seconds}))
        panels.append(Panel(f"{size}³: memory, GB", titles, {"memory": memory}))
    return Chart(f"Decoder of {results['variant']}", panels)


def way_title(way: str) -> str:
    """Return the title of a decoding method, such as `slabs 1`."""
    titles = {"slabs": "slabs, budget {} GB", "windows": "windows of {}, overlap {}"}
    kind, *settings = way.split()
    return titles.get(kind, "whole, PyTorch").format(*settings).replace(" 0 GB", " not set")


def _load(results: dict[str, Any]) -> Chart:
    rows = [row for row in results["rows"] if row["transport"] == "gRPC"]
    loads = list(dict.fromkeys(row["load"] for row in rows))
    by_level = {(row["endpoint"], row["load"]): row for row in rows}
    endpoints = list(dict.fromkeys(row["endpoint"] for row in rows))

    def bars(endpoint: str, *keys: str) -> list[Bar | None]:
        levels = [by_level[endpoint, load] for load in loads]
        return [
            None if level[keys[0]] is None else Bar(*(level[key] for key in keys))
            for level in levels
        ]

    throughput = {endpoint: bars(endpoint, "volumes_per_s") for endpoint in endpoints}
    latency = {endpoint: bars(endpoint, "p50", "p50", "p95") for endpoint in endpoints}
    panels = [
        Panel("Volumes per second", loads, throughput),
        Panel("Latency, ms: p50, and a line to p95", loads, latency),
    ]
    return Chart(f"Load on {results['variant']}, gRPC", panels)


def _modes(results: dict[str, Any]) -> Chart:
    def panel(title: str, rows: list[dict[str, Any]], series: dict[str, str]) -> Panel:
        categories = [f"strength {row['strength']:g}" for row in rows]
        bars = {name: [Bar(row[key]) for row in rows] for name, key in series.items()}
        return Panel(title, categories, bars)

    dice = {"edges": "edges", "as T1": "as_t1", "as T2": "as_t2"}
    masked = [row for row in results["translation"] if row["masked"]]
    without = [row for row in results["translation"] if not row["masked"]]
    levels = {name: name for name in ("lesion", "elsewhere", "noise")}
    panels = [
        panel("T1 to T2, own mask", masked, dice),
        panel("T1 to T2, no mask", without, dice),
        panel("Lesion, grey levels", results["insertion"], levels),
    ]
    return Chart("Image to image with mini, by strength", panels)


_CHARTS: dict[str, Callable[[dict[str, Any]], Chart]] = {
    "compare": _compare,
    "decode": _decode,
    "load": _load,
    "modes": _modes,
}

if __name__ == "__main__":
    for path in RESULTS.glob("*.json"):
        write_picture(path)
