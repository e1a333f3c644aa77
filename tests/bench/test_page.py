"""The page of benchmarks."""

from __future__ import annotations

from pathlib import Path

from bench import page


def test_a_section_replaces_the_one_of_its_title(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    page.write("Load", "scripts/bench load", "first", path)
    page.write("Solvers", "scripts/bench solvers", page.table(["a", "b"], [[1, 2]]), path)
    page.write("Load", "scripts/bench load --quick", "second", path)
    text = path.read_text()
    assert text.count("## Load\n") == 1 and "first" not in text and "second" in text
    assert "`scripts/bench load --quick` on " + page.machine() in text
    assert "| a | b |\n| --- | --- |\n| 1 | 2 |" in text
    assert text.startswith("# Benchmarks\n")
