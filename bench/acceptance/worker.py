"""Run the cases of a step in a process that may be killed at any time.

    python -m bench.acceptance.worker STEP MODULE SETTING STATE RUN

Standard output has lines of JSON: the names of all cases, and then the beginning and the result of
each case. The process ends after a failed case, because an error of a GPU may affect the next
cases. The runner then starts another process. The output of libraries goes to standard error.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.acceptance.steps import Case, NotDone, Setting

SETTLED = ("done", "not done")


def pending(cases: Sequence[Case], results: Mapping[str, Any], run: str) -> list[Case]:
    """Return the cases that must still run in the call `run`.

    `results` has the results of this call and of earlier calls.
    """

    def settled(case: Case) -> bool:
        return results.get(case.name, {}).get("status") in SETTLED

    def current(case: Case) -> bool:
        return bool(results.get(case.name, {}).get("run") == run)

    open_groups = {case.group for case in cases if case.group and not settled(case)}
    return [
        case
        for case in cases
        if not current(case) and (not settled(case) or case.group in open_groups)
    ]


def attempt(case: Case) -> dict[str, Any]:
    """Run a case; return its status, its seconds, and its rows or the reason why it has none."""
    begin = time.monotonic()
    try:
        result: dict[str, Any] = {"status": "done", "rows": case.run()}
    except NotDone as error:
        result = {"status": "not done", "reason": str(error)}
    except Exception as error:
        traceback.print_exc()
        result = {"status": "failed", "reason": sentence(error)}
    return {**result, "seconds": round(time.monotonic() - begin, 1)}


def sentence(error: Exception) -> str:
    """Return an error as one line without paths of this machine."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else "no reason given"
    text = re.sub(r"(?<!\w)/\S*/", "", " ".join(text.split()))
    return f"{type(error).__name__}: {text[:300]}"


def main() -> int:
    """Run the pending cases; return the exit status."""
    _, module, setting, state, run = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that a case ends its servers
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    cases = importlib.import_module(module).cases(Setting(**json.loads(setting)))
    results: dict[str, Any] = {}
    with suppress(FileNotFoundError):
        results = json.loads(Path(state).read_bytes())["cases"]
    print(json.dumps({"cases": [case.name for case in cases]}), file=answers)
    for case in pending(cases, results, run):
        print(json.dumps({"begin": case.name}), file=answers)
        result = attempt(case)
        print(json.dumps({"end": case.name, **result}), file=answers)
        if result["status"] == "failed":
            break
    return 0


if __name__ == "__main__":
    sys.exit(main())
