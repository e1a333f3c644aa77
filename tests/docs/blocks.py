"""The code blocks of the documentation, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

PAGES = [
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "MODEL_CARD.md")),
    ROOT / "client" / "README.md",
]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_COMMENT = re.compile(r"(^|\s)#.*$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, its language and its text."""

    page: str
    language: str
    text: str


def blocks(*languages: str) -> list[Block]:
    """Return the blocks of all pages in these languages, by page and in their order."""
    return [
        Block(str(page.relative_to(ROOT)), language, text)
        for page in PAGES
        for language, text in _BLOCK.findall(page.read_text())
        if language in languages
    ]


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield the page and the words of each command in bash and console blocks.

    A command in a console block follows `$`; other lines there are output.
    """
    for block in blocks("bash", "console"):
        text = block.text.replace("\\\n", " ")
        if block.language == "console":
            lines = text.splitlines()
            text = "\n".join(line[2:] for line in lines if line.startswith("$ "))
        lexer = shlex.shlex(_COMMENT.sub("", text), posix=True, punctuation_chars="|&;<>\n")
        lexer.whitespace, lexer.commenters, lexer.whitespace_split = " \t", "", True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) - set("|&;<>\n"):
                words.append(word)
            elif words:
                yield block.page, _without_settings(words)
                words = []


def _without_settings(words: list[str]) -> list[str]:
    """Return a command without the variables that are set for it."""
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    return words


def names(folder: Path) -> set[str]:
    """Return the names of the files in a folder."""
    return {path.name for path in folder.iterdir()}
