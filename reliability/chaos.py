"""Cause faults of a running server, its clients and the machine; check that the server recovers.

Each fault begins with a server that works. After the fault, every model must serve, a request with
the same seed must return the same bytes, and /dev/shm must not have more files than before. The
command prints a line for each fault and then a line of JSON. The exit status is 1 if the server did
not recover from a fault. Faults that this machine does not allow are left out and listed. Only
`scripts/reliability chaos clock`, as root, sets the machine's clock.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import ROOT
from reliability import clock, kills, shortages
from reliability.fault_target import FaultTarget, Unable

Prefix = Callable[[Path], list[str]]


@dataclass(frozen=True)
class Fault:
    """A function that causes a fault and returns the outcome in words.

    The function raises Wrong for a wrong outcome, and Unable if the machine does not allow the
    fault. `prefix` takes a folder for files and returns a command that runs the server's command.
    """

    do: Callable[[FaultTarget], str]
    prefix: Prefix | None = None


FAULTS = {
    **{
        f"kill {model} (ensemble)": Fault(partial(kills.kill_in_ensemble, model=model))
        for model in kills.ENSEMBLE
    },
    **{
        f"kill {model} (stream)": Fault(partial(kills.kill_in_stream, model=model))
        for model in kills.STREAM
    },
    "stop mini.flow_masked": Fault(partial(kills.stop_stub, model="mini.flow_masked")),
    "kill tritonserver": Fault(partial(kills.end_triton, how=signal.SIGKILL)),
    "stop tritonserver": Fault(partial(kills.end_triton, how=signal.SIGSTOP)),
    "kill the supervisor": Fault(partial(kills.end_server, everything=False)),
    "kill the whole server": Fault(partial(kills.end_server, everything=True)),
    **{
        f"kill a client ({stage})": Fault(partial(kills.kill_client, stage=stage))
        for stage in ("waiting", "sampler", "decoder", "answered")
    },
    "fill /dev/shm": Fault(shortages.fill_shm, shortages.small_shm),
    "fill the disk below maisi generate": Fault(shortages.fill_disk),
    "fill the disk below maisi dataset": Fault(shortages.fill_disk_of_dataset),
    "read slowly": Fault(shortages.read_slowly),
    "set the clock": Fault(clock.set_clock),
}
BY_NAME = ("set the clock",)  # runs only if it is named, because it affects the whole machine


class FaultRunner:
    """Runs faults one after the other, if possible on one server, with files in `folder`."""

    def __init__(self, folder: Path) -> None:
        """Create the folder; the first fault starts a server."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._target: FaultTarget | None = None
        self._prefix: Prefix | None = None

    def run(self, fault: Fault) -> str:
        """Cause a fault and check that the server recovers; return the outcome."""
        if self._target is None or fault.prefix is not self._prefix:
            self.clear()
            words = fault.prefix(self._folder) if fault.prefix else []
            self._target, self._prefix = FaultTarget(self._folder, words), fault.prefix
        outcome = fault.do(self._target)
        self._target.check_recovered()
        return outcome

    def clear(self) -> None:
        """Stop the server; the next fault starts another server."""
        if self._target is not None:
            self._target.close()
        self._target = None


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="scripts/reliability chaos", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="part of a fault's name [all except the clock]"
    )
    parser.add_argument("--list", action="store_true", help="list the names of the faults")
    options = parser.parse_args()
    words = options.names or [name for name in FAULTS if name not in BY_NAME]
    names = [name for name in FAULTS if any(word in name for word in words)]
    if options.list or not names:
        print("\n".join(FAULTS))
        return int(not names)
    passed, wrong, skipped = 0, {}, {}
    runner = FaultRunner(ROOT / "build" / "chaos")
    for name in names:
        began = time.monotonic()
        try:
            outcome = runner.run(FAULTS[name])
            passed += 1
        except Unable as error:
            outcome = skipped[name] = f"left out: {error}"
        except Exception as error:  # any error is a finding
            outcome = wrong[name] = f"WRONG: {type(error).__name__}: {error}"
            runner.clear()
        print(f"{name}: {outcome} [{time.monotonic() - began:.1f} s]", flush=True)
    runner.clear()
    print(json.dumps({"right": passed, "wrong": wrong, "left out": skipped}))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
