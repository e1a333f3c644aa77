"""Words that the project does not use are found in prose, and only there."""

from __future__ import annotations

import pytest

from docs.prose import WORDS, findings, words

LISTED = words(WORDS.read_text())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("page.md", "The server hands on the mask."),
        ("page.md", "```\nnothing\n```\nThe volume is made Anew.\n"),
        ("values.yaml", "port: 8001 # the door of clients"),
        ("module.py", "VALUE = 1  # what the caller is told\n"),
        ("module.py", 'def function():\n    """Walk along the flow."""\n'),
        ("module.py", 'error = f"{1} goes on"\n'),
    ],
)
def test_a_listed_word_is_found_with_its_advice(name: str, text: str) -> None:
    (sentence,) = findings(name, text, LISTED)
    line = len(text.rstrip().splitlines())
    assert sentence.startswith(f"{name}:{line}: '")
    assert "; write: " in sentence


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("page.md", "# Title\n\nThe sampler goes\non until noon.\n", 3),
        ("page.md", "> A list that\n> is told\n> by hand\n", 2),
        ("values.yaml", "one: 1\n# It hands\n# over the mask.\ntwo: 2\n", 2),
        ("module.py", "# It hands\n# on the mask.\nvalue = 1\n", 1),
        (
            "module.py",
            'def f():\n    """Return what is given\n    back by the server.\n    """\n',
            2,
        ),
        ("module.py", "error = (\n    'The server goes '  # why\n    f'on for {1} s'\n)\n", 2),
    ],
)
def test_a_phrase_is_found_across_a_line_break(name: str, text: str, line: int) -> None:
    (sentence,) = findings(name, text, LISTED)
    assert sentence.startswith(f"{name}:{line}: '")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("page.md", "The sampler goes\n\nOn Monday.\n"),
        ("module.py", "names = ['hand', 'on']\n"),
        ("module.py", "# It goes\n\n# On Monday.\n"),
        ("page.md", "The server sends the mask; variables are not called `told`."),
        ("page.md", "A reader can tell T1 from T2, and tell them apart."),
        ("module.py", "for node in ast.walk(tree):\n    told = file.tell()\n"),
    ],
)
def test_other_words_and_names_in_code_are_not(name: str, text: str) -> None:
    assert not list(findings(name, text, LISTED))
