"""Attack a server while an ordinary client requests volumes from it.

`scripts/reliability fuzz --attacks` starts a server at 127.0.0.1 and runs each attack once, with a
bounded amount.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench import servers
from reliability import attacks_grpc, attacks_http
from reliability.impact import AttackRun, OrdinaryClient, measure


@dataclass(frozen=True)
class Attack:
    """An attack, and its amounts in a full run and in a quick run."""

    do: Callable[[AttackRun], Counter[str]]
    full: int
    quick: int


ATTACKS = {
    "gzip at HTTP": Attack(partial(attacks_http.bomb, encoding="gzip"), 1000, 20),
    "deflate at HTTP": Attack(partial(attacks_http.bomb, encoding="deflate"), 500, 20),
    "gzip at gRPC": Attack(attacks_grpc.bomb, 500, 20),
    "nested JSON": Attack(attacks_http.nesting, 100_000, 100),
    "long numbers": Attack(attacks_http.long_numbers, 100_000, 1000),
    "lengths of binary tensors": Attack(attacks_http.binary_sizes, 10, 1),
    "endless body at HTTP": Attack(attacks_http.endless_body, 500, 10),
    "endless head at HTTP": Attack(attacks_http.endless_head, 100, 2),
    "endless head at gRPC": Attack(attacks_grpc.endless_head, 100, 2),
    "resets": Attack(attacks_grpc.resets, 100_000, 500),
    "pings": Attack(attacks_grpc.pings, 100_000, 500),
    "settings": Attack(attacks_grpc.settings, 100_000, 500),
    **{
        f"silent at {name}": Attack(partial(attacks_http.silent, port=port, path=path), 2000, 50)
        for name, port, path in (
            ("gRPC", "grpc", ""),
            ("HTTP", "http", "/v2/health/live"),
            ("metrics", "metrics", "/metrics"),
            ("status", "status", "/ready"),
        )
    },
    "leave": Attack(attacks_grpc.leave, 4, 1),
    "flood by gRPC": Attack(attacks_grpc.flood, 80, 20),
    "flood by HTTP": Attack(attacks_http.flood, 80, 20),
    "tiny chunks at HTTP": Attack(attacks_http.tiny_chunks, 1_000_000, 1000),
}


def attack(repository: Path, names: Sequence[str], quick: bool, log: Path) -> dict[str, Any]:
    """Run the named attacks, one after the other; return the outcome of each attack.

    `found` in the result has the names of harmful attacks: during a harmful attack, an ordinary
    request failed or returned different bytes, or a process of the server ended. The server writes
    its log to `log`.
    """
    outcomes = {}
    with servers.keyed(repository, log, "--models=mini") as (server, _):
        idle = OrdinaryClient(server.grpc)
        idle.wait()
        idle.end()
        for name in names:
            definition = ATTACKS[name]
            amount = definition.quick if quick else definition.full
            outcome = measure(server, idle, definition.do, amount)
            print(f"{name}: {outcome}", file=sys.stderr, flush=True)
            outcomes[name] = outcome
        # A second signal, at the end of the block, stops the server at once. With one signal the
        # server would wait for Triton 2.51, which never unloads an ensemble whose client
        # disconnected.
        os.kill(server.pid, signal.SIGTERM)
        time.sleep(0.5)
    harmful = [
        name
        for name, outcome in outcomes.items()
        if outcome["failures"] or not outcome["same_bytes"] or not outcome["survived"]
    ]
    return {"attacks": outcomes, "found": harmful}
