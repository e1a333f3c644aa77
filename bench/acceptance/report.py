"""Write docs/reference/gpu.md from the states of all steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench import ROOT, page
from bench.acceptance import runner
from bench.acceptance.steps import STEPS, AcceptanceStep, Setting

PAGE = ROOT / "docs" / "reference" / "gpu.md"
_HEAD = """# On a GPU

This page is for operators and developers who want to know what has been run on a GPU.
`scripts/acceptance` runs and checks the engines on the GPU of this machine, and writes this page.
Any NVIDIA GPU is suitable. Without a GPU, the command runs the same code on the CPU at small sizes,
and this page lists the cases that were not done, with the reason.

```bash
scripts/acceptance                  # all steps; repeat the command until it ends with status 0
scripts/acceptance parity --again   # one step, with the cases that are already done
scripts/acceptance --upstream PATH  # also measures upstream, from a checkout of NV-Generate-CTMR
scripts/acceptance --wheels DIR     # downloads nothing; installs the wheels in DIR
```

A step stops after eight minutes and saves its finished cases under `build/acceptance`. The next
call resumes it. The exit status is 1 if a case failed, and 3 if a step is unfinished.

A machine without access to the internet must already have PyTorch for CUDA 13. Pack everything else
into files of a limited size, and copy these files to the machine one by one:

```bash
scripts/acceptance --pack DIR --limit-mb 64 --python 3.12 --capability 9.0  # here
scripts/acceptance --unpack DIR  # on that machine; repeat the command after each copied file
```
"""
_NO_GPU = (
    "**This has not been run on a GPU yet.** All numbers below were measured on a CPU at small"
    " sizes. They show that the command works, and say nothing about a GPU. Do not compare the"
    " times of a step whose load average is larger than the number of cores."
)


def write(setting: Setting) -> None:
    """Write the page from the states in `setting.folder`."""
    PAGE.write_text(text(setting))


def text(setting: Setting) -> str:
    """Return the page."""
    states = {step.name: runner.load(setting.folder / f"{step.name}.json") for step in STEPS}
    key: Mapping[str, Any] = next((state["key"] for state in states.values() if state), {})
    machine = ", ".join(filter(None, key.get("machine", [page.machine()])))
    packages = ", ".join(f"{name} {number}" for name, number in key.get("packages", {}).items())
    lead = [f"On {machine}.", f"Packages: {packages}.", f"Sources: {key.get('version', '')}."]
    parts = [_HEAD.strip(), *([] if setting.gpu else [_NO_GPU]), " ".join(lead)]
    for step in STEPS:
        parts.append(section(step, states[step.name]))
    return page.spaced("\n\n".join(parts)) + "\n"


def section(step: AcceptanceStep, state: Mapping[str, Any] | None) -> str:
    """Return the section of a step."""
    head = f"## {step.name}\n\n{step.about}"
    if state is None:
        return f"{head}\n\nNot run."
    cases = {name: state["cases"].get(name, {"status": "open"}) for name in state["order"]}
    rows = [{"case": name, **row} for name, case in cases.items() for row in case.get("rows", [])]
    rows = with_ratios(cases, rows)
    parts = [head, *([table(rows)] if rows else [])]
    for status, title in (
        ("failed", "**Failed:**"),
        ("not done", "Not done:"),
        ("open", "Unfinished, resumed by the next call:"),
    ):
        lines = [
            f"- {name}{': ' + case['reason'] if 'reason' in case else ''}"
            for name, case in cases.items()
            if case["status"] == status
        ]
        if lines:
            parts.append("\n".join([title, "", *lines]))
    parts.append(f"{state['seconds']:.0f} s in total; load average {state['load']} at the end.")
    return "\n\n".join(parts)


def with_ratios(cases: Mapping[str, Any], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of `speed` with ratios to the first row of the same size in the same run."""
    first: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        if "s per step" not in row:
            continue
        base = first.setdefault((row["size"], cases[row["case"]]["run"]), row)
        for key in ("s per step", "s per decode"):
            row[key.replace("s per", "ratio,")] = base[key] / row[key]
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows as a Markdown table that has the columns of all rows."""
    head = list(dict.fromkeys(key for row in rows for key in row))
    return page.table(head, [[_cell(row.get(key)) for key in head] for row in rows])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value).replace("|", "\\|")
