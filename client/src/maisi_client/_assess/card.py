"""The verdicts of an assessment in a dataset card, the `README.md` of `maisi dataset`."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from .._atomic import atomic
from .._datasets.card import table
from .._errors import printable

if TYPE_CHECKING:
    from .run import Assessment

_HEADING = "\n\n## Assessment\n"


def add_verdicts(card: Path, result: Assessment) -> None:
    """Add the verdicts to a card as its last section; replace the section if it exists."""
    text = card.read_text(encoding="utf-8").partition(_HEADING)[0].rstrip("\n")
    rows = [
        # Escape the sentence, because it may contain names of files.
        (verdict.question, verdict.level, escape(printable(verdict.sentence), quote=False))
        for verdict in result.verdicts
    ]
    with atomic(card) as draft:
        section = table(("question", "verdict", ""), rows)
        draft.write_text(f"{text}{_HEADING}\n{section}\n", encoding="utf-8")
