"""Run scripts/acceptance; `pack.py` implements --pack, and `parcels.py` implements --unpack."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.acceptance import identity, libcuda, report, runner
from bench.acceptance.steps import STEPS, Setting

STATUS = {"failed": 1, "unfinished": 3}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run steps, print a line of JSON for each step, write the page; return the exit status.

    The status is 1 if a case failed, 3 if a step stopped at its deadline, and else 0. The next call
    resumes a step that stopped.
    """
    names = [step.name for step in STEPS]
    parser = argparse.ArgumentParser(
        prog="scripts/acceptance",
        description="Check the claims about GPUs on this machine; write docs/reference/gpu.md.",
        epilog="scripts/acceptance --wheels DIR ... installs the wheels in DIR and downloads"
        " nothing. docs/reference/gpu.md describes --pack DIR and --unpack DIR.",
    )
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"{', '.join(names)} [all]")
    parser.add_argument("--again", action="store_true", help="also run cases that are done")
    parser.add_argument(
        "--upstream", type=Path, metavar="PATH", help="checkout of NV-Generate-CTMR"
    )
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.steps if name not in names]:
        parser.error(f"step: {unknown[0]!r} is not one of {', '.join(names)}")
    gpu = libcuda.first()
    upstream = str(options.upstream.resolve()) if options.upstream else ""
    setting = Setting(str(runner.WORK), gpu.name if gpu else "", upstream)
    key = {"version": runner.version(), **identity.machine_and_packages()}
    worst = 0
    for step in STEPS:
        if options.steps and step.name not in options.steps:
            continue
        step_key = {**key, "upstream": bool(upstream)} if step.name == "speed" else key
        state = runner.run(step, setting, step_key, options.again)
        print(json.dumps(state), flush=True)
        worst = max(worst, STATUS.get(state["status"], 0), key=[0, 3, 1].index)
    report.write(setting)
    return worst


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that a step ends its worker
    sys.exit(main())
