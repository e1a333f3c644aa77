"""Write the call that made a picture as a shell command and as Python."""

from __future__ import annotations

import json
import os
import shlex
from typing import Any

from .._arguments import ARGUMENTS
from .._transport.tls import Tls
from .pictures import Call


def command(call: Call, url: str, tls: Tls | None) -> str:
    """Return the command `maisi` that writes the same file, to run in the folder of the inputs."""
    words = ["maisi", call.method, *([call.mask] if call.mask else [])]
    words += ["-o", f"{call.output}.nii.gz"]
    options = {"url": url, **_tls_files(tls), **_arguments(call)}
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words += [option] * value
        elif (text := _text(value)).startswith("-"):
            words.append(f"{option}={text}")
        else:
            words += [option, text]
    return shlex.join(words)


def python(call: Call, url: str, tls: Tls | None) -> str:
    """Return the Python code that writes the same file."""
    tls_files = ", ".join(f"{name}={_literal(path)}" for name, path in _tls_files(tls).items())
    client = _literal(url) + (f", tls=maisi_client.Tls({tls_files})" if tls else "")
    positional = [_literal(call.mask)] if call.mask else []
    named = [f"{name}={_literal(value)}" for name, value in _arguments(call).items()]
    result, save = ("volume", "save") if call.method == "generate" else ("mask", "to_filename")
    return (
        "import maisi_client\n\n"
        f"with maisi_client.Client({client}) as client:\n"
        f"    {result} = client.{call.method}({', '.join([*positional, *named])})\n"
        f"    {result}.{save}({_literal(f'{call.output}.nii.gz')})\n"
    )


def _arguments(call: Call) -> dict[str, Any]:
    """Return the arguments, including the source's name, in the order of the documentation."""
    values = {**call.arguments, "source": call.source}
    return {name: values[name] for name in ARGUMENTS if values.get(name) is not None}


def _tls_files(tls: Tls | None) -> dict[str, str]:
    files = {} if tls is None else vars(tls)
    return {name: os.fspath(path) for name, path in files.items() if path is not None}


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _literal(value: Any) -> str:
    return repr(value) if isinstance(value, bool) else json.dumps(value, ensure_ascii=False)
