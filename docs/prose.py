"""Find words in prose that words.txt lists: `python docs/prose.py`, a part of `scripts/lint`."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
WORDS = Path(__file__).with_name("words.txt")
_TEST = ":!tests/docs/test_prose.py"  # has the words on purpose
_KINDS = ("*.ipynb", "*.md", "*.py", "*.tpl", "*.toml", "*.yaml", "NOTES.txt", "scripts/*", _TEST)
_CODE = re.compile(r"`[^`\n]+`")
_LINES = ("STRING", "FSTRING_MIDDLE", "COMMENT")  # FSTRING_MIDDLE: from Python 3.12


class Word(NamedTuple):
    """A word that is not used, and what to write."""

    pattern: re.Pattern[str]
    advice: str


def words(text: str) -> list[Word]:
    """Return the words of a list such as words.txt."""
    lines = (line.split("\t") for line in text.splitlines() if line and line[0] != "#")
    return [Word(re.compile(pattern, re.IGNORECASE), advice) for pattern, advice in lines]


def prose(name: str, text: str) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line that may be prose, without names in code."""
    if not name.endswith(".py"):
        yield from enumerate(_CODE.sub("", text).splitlines(), start=1)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if tokenize.tok_name[token.type] in _LINES:
            yield from enumerate(token.string.splitlines(), start=token.start[0])


def findings(name: str, text: str, listed: Sequence[Word]) -> Iterator[str]:
    """Yield a sentence for each listed word in the prose of a file."""
    for number, line in prose(name, text):
        for word in listed:
            if match := word.pattern.search(line):
                yield f"{name}:{number}: '{match[0]}'; write: {word.advice}"


def main() -> int:
    """Print the findings in the files that git knows; return 1 if there are some."""
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
