"""Write the reference of the command `maisi`, as Markdown, from its parser: see scripts/write cli.

Of the parser's own actions, for what argparse formats differs with the version of Python and the
width of the terminal.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from maisi_client._cli.parser import parser as made

HEAD = """\
# The command `maisi`

`pip install ./client` installs it. `scripts/write cli` writes this page, of the command's own help.
"""


def page(parser: argparse.ArgumentParser) -> str:
    """Return the whole page."""
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    told = {choice.dest: choice.help for choice in commands._choices_actions}
    index = [f"| [`{name}`](#{parser.prog}-{name}) | {text} |" for name, text in told.items()]
    options = [f"- `{_shortest(action)}`: {_help(action)}" for action in _shown(parser._actions)]
    parts = [HEAD, f"{parser.description}\n", *options, "", "| command | what it does |\n|---|---|"]
    text = "\n".join([*parts, *index]) + "\n"
    for name, command in commands.choices.items():
        text += "\n" + "\n".join(_section(command, told[name] or "")) + "\n"
    return text


def _section(command: argparse.ArgumentParser, told: str) -> Iterator[str]:
    yield f"## {command.prog}\n"
    yield f"{command.description or told[:1].upper() + told[1:] + '.'}\n"
    groups = {group.title: _shown(group._group_actions) for group in command._action_groups}
    shown = [action for actions in groups.values() for action in actions]
    needed = (f"{_shortest(a)} {_value(a)}" for a in shown if a.option_strings and a.required)
    more = [action for action in shown if action.option_strings and not action.required]
    places = (_value(action) for action in shown if not action.option_strings)
    words = [command.prog, *needed, *["[OPTION ...]"] * bool(more), *places]
    yield "```\n" + " ".join(words) + "\n```"
    for title, actions in groups.items():
        if actions:
            yield f"\n**{(title or '').removeprefix('positional ').capitalize()}**\n"
        for action in actions:
            names = [f"{name} {_value(action)}".strip() for name in action.option_strings]
            yield f"- {', '.join(f'`{n}`' for n in names or [_value(action)])}: {_help(action)}"
    epilog = command.epilog or ""
    yield f"\n{epilog[:1].upper()}{epilog[1:]}."


def _shown(actions: list[argparse.Action]) -> list[argparse.Action]:
    hidden = (argparse._HelpAction, argparse._SubParsersAction)
    return [a for a in actions if not isinstance(a, hidden) and a.help != argparse.SUPPRESS]


def _shortest(action: argparse.Action) -> str:
    return min(action.option_strings, key=len)


def _value(action: argparse.Action) -> str:
    """Return how the value is written, such as `X,Y,Z` or `[MASK]`; empty for a switch."""
    if action.nargs == 0:
        return ""
    choices = "{" + ",".join(map(str, action.choices or ())) + "}"
    name = action.metavar or (choices if action.choices else action.dest.upper())
    forms = {"?": "[{0}]", "*": "[{0} ...]", "+": "{0} [{0} ...]"}
    return forms.get(str(action.nargs), "{0}").format(name)


def _help(action: argparse.Action) -> str:
    return (action.help or "") % vars(action)


if __name__ == "__main__":
    print(page(made()), end="")
