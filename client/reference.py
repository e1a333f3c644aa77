"""Write the reference of the command `maisi`, as Markdown, from its parser: see scripts/write cli.

It formats the parser's actions itself, since the output of argparse depends on the version of
Python and the width of the terminal.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from maisi_client._cli.parser import parser as maisi_parser

HEAD = """\
# The command `maisi`

This page is for users of the shell. To install the command, run `pip install ./client`.
`scripts/write cli` writes this page from the command's help.
"""


def page(parser: argparse.ArgumentParser) -> str:
    """Return the whole page."""
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    summaries = {choice.dest: choice.help for choice in commands._choices_actions}
    index = [f"| [`{name}`](#{parser.prog}-{name}) | {text} |" for name, text in summaries.items()]
    options = [f"- `{_shortest(action)}`: {_help(action)}" for action in _visible(parser._actions)]
    parts = [HEAD, f"{parser.description}\n", *options, "", "| command | what it does |\n|---|---|"]
    text = "\n".join([*parts, *index]) + "\n"
    for name, command in commands.choices.items():
        text += "\n" + "\n".join(_section(command, summaries[name] or "")) + "\n"
    return text


def _section(command: argparse.ArgumentParser, summary: str) -> Iterator[str]:
    yield f"## {command.prog}\n"
    yield f"{command.description or summary[:1].upper() + summary[1:] + '.'}\n"
    groups = {group.title: _visible(group._group_actions) for group in command._action_groups}
    all_actions = [action for actions in groups.values() for action in actions]
    options = [action for action in all_actions if action.option_strings]
    required = (f"{_shortest(option)} {_value(option)}" for option in options if option.required)
    optional = ["[OPTION ...]"] * any(not option.required for option in options)
    positional = (_value(action) for action in all_actions if not action.option_strings)
    words = [command.prog, *required, *optional, *positional]
    yield "```\n" + " ".join(words) + "\n```"
    for title, actions in groups.items():
        if actions:
            yield f"\n**{(title or '').removeprefix('positional ').capitalize()}**\n"
        for action in actions:
            names = [f"{name} {_value(action)}".strip() for name in action.option_strings]
            yield f"- {', '.join(f'`{n}`' for n in names or [_value(action)])}: {_help(action)}"
    epilog = command.epilog or ""
    yield f"\n{epilog[:1].upper()}{epilog[1:]}."


def _visible(actions: list[argparse.Action]) -> list[argparse.Action]:
    hidden = (argparse._HelpAction, argparse._SubParsersAction)
    return [a for a in actions if not isinstance(a, hidden) and a.help != argparse.SUPPRESS]


def _shortest(action: argparse.Action) -> str:
    return min(action.option_strings, key=len)


def _value(action: argparse.Action) -> str:
    """Return the notation of the value, such as `X,Y,Z` or `[MASK]`; empty for a switch."""
    if action.nargs == 0:
        return ""
    choices = "{" + ",".join(map(str, action.choices or ())) + "}"
    name = action.metavar or (choices if action.choices else action.dest.upper())
    forms = {"?": "[{0}]", "*": "[{0} ...]", "+": "{0} [{0} ...]"}
    return forms.get(str(action.nargs), "{0}").format(name)


def _help(action: argparse.Action) -> str:
    return (action.help or "") % vars(action)


if __name__ == "__main__":
    print(page(maisi_parser()), end="")
