"""Find words in prose that words.txt lists: `python docs/prose.py`, which `scripts/lint` runs."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
WORDS = Path(__file__).with_name("words.txt")
_TEST = ":!tests/docs/test_prose.py"  # contains the words on purpose
_KINDS = ("*.ipynb", "*.md", "*.py", "*.tpl", "*.toml", "*.yaml", "NOTES.txt", "scripts/*", _TEST)
_CODE = re.compile(r"`[^`\n]+`")
_MARKS = re.compile(r"^[\s#>]+")  # marks of a comment or a quotation before the text of a line
_QUOTES = re.compile(r"""^[a-zA-Z]*("{3}|'{3}|"|')|("{3}|'{3}|"|')$""")
_STRINGS = ("STRING", "FSTRING_START", "FSTRING_MIDDLE", "FSTRING_END")  # FSTRING: Python 3.12
_SPACE = ("NL", "COMMENT")

Line = tuple[int, str]  # number and text of a line


class Word(NamedTuple):
    """A word that must not be used, and advice what to write."""

    pattern: re.Pattern[str]
    advice: str


def words(text: str) -> list[Word]:
    """Return the words of a list such as words.txt."""
    lines = (line.split("\t") for line in text.splitlines() if line and line[0] != "#")
    return [Word(re.compile(pattern, re.IGNORECASE), advice) for pattern, advice in lines]


def paragraphs(name: str, text: str) -> Iterator[list[Line]]:
    """Yield the lines of each paragraph, comment or string in a file, without code."""
    if name.endswith(".py"):
        yield from _strings_and_comments(text)
        return
    lines: list[Line] = []
    for number, line in enumerate(_CODE.sub("", text).splitlines(), start=1):
        if line.strip():
            lines.append((number, line))
        else:
            yield lines
            lines = []
    yield lines


def _strings_and_comments(text: str) -> Iterator[list[Line]]:
    """Yield the lines of each string with all its parts, and of each block of comments."""
    string: list[Line] = []
    comment: list[Line] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind, number = tokenize.tok_name[token.type], token.start[0]
        if kind == "COMMENT":
            if comment and comment[-1][0] != number - 1:
                yield comment
                comment = []
            comment.append((number, token.string))
        elif kind in _STRINGS:
            words = token.string if kind == "FSTRING_MIDDLE" else _QUOTES.sub("", token.string)
            string.extend(enumerate(words.splitlines(), start=number))
        elif kind not in _SPACE:
            yield string
            string = []
    yield comment


def findings(name: str, text: str, listed: Sequence[Word]) -> Iterator[str]:
    """Yield a sentence for each occurrence of a listed word in the prose of a file."""
    for lines in paragraphs(name, text):
        words = [_MARKS.sub("", line).rstrip() for _, line in lines]
        ends = list(accumulate(len(line) + 1 for line in words))
        joined = " ".join(words)
        for word in listed:
            for match in word.pattern.finditer(joined):
                number = lines[bisect_right(ends, match.start())][0]
                yield f"{name}:{number}: '{match[0]}'; write: {word.advice}"


def main() -> int:
    """Print the findings in all files that git does not ignore; return 1 if there is a finding."""
    listed = words(WORDS.read_text())
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *_KINDS]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    paths = [ROOT / name for name in names.splitlines()]
    sentences = [
        sentence
        for path in paths
        if path.is_file()
        for sentence in findings(str(path.relative_to(ROOT)), path.read_text(), listed)
    ]
    print("\n".join(sentences), end="\n" if sentences else "")
    return bool(sentences)


if __name__ == "__main__":
    sys.exit(main())
