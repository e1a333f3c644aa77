"""Do to a running server, its clients and their machine what happens to all of them some day.

Each fault begins with a server that works, and afterwards the server has to be as before: every
model serves, the same seed gives the same bytes, nothing is left in /dev/shm. A line is printed for
each, and JSON last; the exit code is 1 where one went wrong. What this machine does not allow is
left out and said. The machine's clock is set only by `scripts/reliability chaos clock`, which needs
to be root.
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
from reliability.scene import Scene, Unable

Under = Callable[[Path], list[str]]


@dataclass(frozen=True)
class Fault:
    """What is done to a scene and returns what came of it; raises Wrong, or Unable.

    `under`: the beginning of the server's command, made for a folder; one that works elsewhere.
    """

    do: Callable[[Scene], str]
    under: Under | None = None


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
ASKED = ("set the clock",)  # only where asked for by name: others on the machine notice it


class Stage:
    """Plays faults one after the other, with as few servers as can be; their files in `folder`."""

    def __init__(self, folder: Path) -> None:
        """Begin without a server."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._scene: Scene | None = None
        self._under: Under | None = None

    def play(self, fault: Fault) -> str:
        """Do it, and see that the server is whole again; return what came of it."""
        if self._scene is None or fault.under is not self._under:
            self.clear()
            words = fault.under(self._folder) if fault.under else []
            self._scene, self._under = Scene(self._folder, words), fault.under
        found = fault.do(self._scene)
        self._scene.whole()
        return found

    def clear(self) -> None:
        """End the server; the next fault gets another."""
        if self._scene is not None:
            self._scene.close()
        self._scene = None


def main() -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(prog="scripts/reliability chaos", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="part of a name [all but clock]")
    parser.add_argument("--list", action="store_true", help="name them")
    options = parser.parse_args()
    words = options.names or [name for name in FAULTS if name not in ASKED]
    chosen = [name for name in FAULTS if any(word in name for word in words)]
    if options.list or not chosen:
        print("\n".join(FAULTS))
        return int(not chosen)
    right, wrong, unable = 0, {}, {}
    stage = Stage(ROOT / "build" / "chaos")
    for name in chosen:
        began = time.monotonic()
        try:
            said = stage.play(FAULTS[name])
            right += 1
        except Unable as error:
            said = unable[name] = f"left out: {error}"
        except Exception as error:  # whatever: it is what is looked for
            said = wrong[name] = f"WRONG: {type(error).__name__}: {error}"
            stage.clear()
        print(f"{name}: {said} [{time.monotonic() - began:.1f} s]", flush=True)
    stage.clear()
    print(json.dumps({"right": right, "wrong": wrong, "left out": unable}))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
