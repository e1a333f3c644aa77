"""HTML elements that several sections of the page use."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

KEY = (
    "<p class='key'><span class='synthetic'>synthetic</span><span class='real'>real, for"
    " comparison</span></p>"
)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table, or an empty string without rows; `head` is text, cells of `rows` are HTML."""
    if not rows:
        return ""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def short(value: float | None) -> str:
    """Return a number with three digits, or an empty string for None."""
    return "" if value is None else f"{value:.3g}"
