"""A parser that suggests the nearest option or command for a misspelt one."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Collection, Sequence
from difflib import get_close_matches

_NUMBER = re.compile(r"-\.?\d")


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that accepts no abbreviated options.

    An abbreviation could become ambiguous with the next option that is added. A misspelt option is
    reported before a missing required one, which it may stand for. Both exit with code 2.
    """

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse the arguments; exit with 2 for an unknown option or command."""
        words = sys.argv[1:] if args is None else list(args)
        options = [name for action in self._actions for name in action.option_strings]
        commands = [
            name
            for action in self._actions
            if isinstance(action, argparse._SubParsersAction)
            for name in action.choices
        ]
        for word in words:
            if word == "--":
                break
            if not word.startswith("-") or word == "-":
                if not commands:
                    continue
                if word not in commands:
                    self.error(
                        f"{word} is not a command of {self.prog}{_suggestion(word, commands)}"
                    )
                break  # the rest is for the command's own parser
            name = word.partition("=")[0] if word.startswith("--") else word[:2]
            if name not in options and not _NUMBER.match(word) and " " not in word:
                self.error(f"{name} is not an option of {self.prog}{_suggestion(name, options)}")
        parsed, rest = super().parse_known_args(words, namespace)
        positional = [action for action in self._actions if not action.option_strings]
        if rest and positional and positional[-1].nargs == "*":  # files on both sides of an option
            getattr(parsed, positional[-1].dest).extend(rest)
            rest = []
        return parsed, rest


def _suggestion(word: str, names: Collection[str]) -> str:
    """Return a question with those of `names` that `word` may stand for."""
    completions = sorted(name for name in names if word.strip("-") and name.startswith(word))
    nearest = completions or get_close_matches(word, names, n=2, cutoff=0.7)
    return f"; did you mean {' or '.join(nearest)}?" if nearest else ""
