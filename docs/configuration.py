"""Write docs/reference/configuration.md: `scripts/write configuration`.

The page has the options, defaults and values of the code. configuration.toml has the meanings of
environment variables and of the keys of a variant.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.page import table
from docker import chart_values
from export.__main__ import _parser as export_parser
from export.variant import VARIANTS
from server.__main__ import parser as server_parser

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference" / "configuration.md"
MEANINGS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
HEAD = """\
# Configuration

This page is for operators and developers. It lists every option of the server and of the export,
every environment variable, every key of a variant's file, and every value of the chart. The options
of the command `maisi` are on [their own page](cli.md). `scripts/write configuration` writes this
page.
"""
# Groups of environment variables in configuration.toml, and their headings.
_GROUPS = {
    "client": "The client",
    "server": "The server",
    "export": "The export",
    "internal": "Set by the software; do not set them",
}
_LONGEST = 40  # largest number of characters of an example
_DEFAULT = re.compile(r"(; | \()default: ")


def page() -> str:
    """Return the page; variables `MAISI_*` in the environment would change its defaults."""
    sections = [
        HEAD,
        "## Options of the server\n",
        "`scripts/serve`, `python -m server` and `maisi-triton serve` have these options. The"
        " default folder of `maisi-triton` is `~/.local/share/maisi-triton/model_repository`.\n",
        _options(server_parser()),
        "\n## Options of the export\n",
        "`python -m export` and `maisi-triton export` have these commands and options. The default"
        " folders of `maisi-triton` are `~/.local/share/maisi-triton/model_repository` and"
        " `~/.cache/maisi-triton/export`.",
        *_commands(export_parser()),
        "\n## Environment variables\n",
        *_variables(),
        "\n## The file of a variant\n",
        "`export/variants/NAME.toml`, or a file of your own "
        "([export.md](../how-to/export.md#your-own-fine-tuned-weights)). A word in capitals stands "
        "for any name. The examples are those of `mini`, or of the first variant with the key.\n",
        _table(("key", "example", "meaning"), _keys()),
        "\n## Values of the chart\n",
        "`helm install --set NAME=VALUE`, or a file for `--values` "
        "([operations.md](../how-to/operations.md#kubernetes)).\n",
        chart_values.table((chart_values.CHART / "values.yaml").read_text()).rstrip(),
        "\n## Variables of the compose file and of haproxy\n",
        _table(("variable", "file", "default", "meaning"), [*_compose(), *_haproxy()]),
    ]
    return "\n".join(sections) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return table(head, [[cell.replace("|", "\\|") for cell in row] for row in rows])


def _options(parser: argparse.ArgumentParser) -> str:
    rows = []
    for action in parser._actions:
        if isinstance(action, (argparse._HelpAction, argparse._SubParsersAction)):
            continue
        help_text = (action.help or "") % {**vars(action), "default": _default(action)}
        meaning, _, default = _DEFAULT.sub("\n", help_text).partition("\n")
        value = _value(action)
        names = action.option_strings or [action.dest.upper()]
        option = " ".join([*names, *([value] if value and action.option_strings else [])])
        rows.append((f"`{option}`", default.rstrip(")") or _default(action), meaning))
    return _table(("option", "default", "meaning"), rows)


def _value(action: argparse.Action) -> str:
    """Return the notation of an option's value, or "" for a switch."""
    if action.nargs == 0:
        return ""
    choices = "{" + ",".join(map(str, action.choices or ())) + "}"
    name = action.metavar or (choices if action.choices else action.dest.upper())
    return f"{name} ..." if action.nargs == "+" else str(name)


def _default(action: argparse.Action) -> str:
    if action.default in (None, False, []):
        return ""
    return str(action.default).replace(f"{ROOT}/", "")


def _commands(parser: argparse.ArgumentParser) -> Iterator[str]:
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    for name, command in commands.choices.items():
        summary = next(choice.help for choice in commands._choices_actions if choice.dest == name)
        yield f"\n### `{name}`: {summary}\n"
        yield _options(command)


def _variables() -> Iterator[str]:
    for group, title in _GROUPS.items():
        yield f"### {title}\n"
        rows = [(f"`{name}`", text) for name, text in MEANINGS["variables"][group].items()]
        yield _table(("variable", "meaning"), rows) + ("\n" if group != "internal" else "")


def _keys() -> Iterator[Sequence[str]]:
    paths = sorted(VARIANTS.glob("*.toml"), key=lambda path: (path.stem != "mini", path.stem))
    values = [pair for path in paths for pair in flat(tomllib.loads(path.read_text()))]
    for key, meaning in MEANINGS["variant"].items():
        matches = [value for name, value in values if key_pattern(key).fullmatch(name)]
        example = _toml(matches[0]) if matches else ""
        yield f"`{key}`", f"`{example}`" if 0 < len(example) <= _LONGEST else "", meaning


def flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the keys of nested tables, joined with dots, and their values."""
    for key, value in table.items():
        entries = value if isinstance(value, list) else [value]
        if all(isinstance(entry, dict) for entry in entries) and entries:
            for entry in entries:
                yield from flat(entry, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def key_pattern(key: str) -> re.Pattern[str]:
    """Return the pattern of a key; a word in capitals matches any name."""
    words = (r"[^.]+" if word.isupper() else re.escape(word) for word in key.split("."))
    return re.compile(r"\.".join(words))


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    return str(value).replace("'", '"')


def _compose() -> Iterator[Sequence[str]]:
    text = (ROOT / "docker" / "compose.yaml").read_text()
    for name, kind, default in re.findall(r"\$\{(\w+):([-+])([^}]*)\}", text):
        cell = f"`{default}`" if kind == "-" else ""
        yield f"`{name}`", "compose.yaml", cell, MEANINGS["variables"]["compose"][name]


def _haproxy() -> Iterator[Sequence[str]]:
    text = (ROOT / "docker" / "haproxy.cfg").read_text()
    for name, default, meaning in re.findall(r"presetenv (\w+) (\S+) *(?:# (.*))?", text):
        yield f"`{name}`", "haproxy.cfg", f"`{default}`", meaning


if __name__ == "__main__":
    for name in [name for name in os.environ if name.startswith("MAISI_")]:
        del os.environ[name]
    PAGE.write_text(page())
