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


def test_markdown_has_one_blank_line_around_blocks() -> None:
    loose = """text
- a
  more of a
- b
| c |
| --- |
# Title
next


last
```
code


- code
```
end"""
    blocks = ["text", "- a\n  more of a\n- b", "| c |\n| --- |", "# Title", "next", "last"]
    blocks += ["```\ncode\n\n\n- code\n```", "end"]
    assert page.spaced(loose) == "\n\n".join(blocks)
    assert page.spaced(page.spaced(loose)) == page.spaced(loose)


def test_sections_of_a_page_are_a_blank_line_apart(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("# Title\n## A\nby hand\n\n\n")
    page.write("B", "scripts/bench b", "list:\n- item\n", path)
    text = path.read_text()
    assert text.startswith("# Title\n\n## A\nby hand\n\n## B\n\n`scripts/bench b` on ")
    assert text.endswith(".\n\nlist:\n\n- item\n")
