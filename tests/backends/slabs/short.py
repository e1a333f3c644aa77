"""Decodes in a process of its own while memory is short, and tells as JSON what came of it."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from backends.engines.memory import OutOfMemory
from backends.slabs.network import Host, Network
from tests.backends.shortage import short_of_memory


def main() -> None:
    """Decode with all memory, then with this much more than the network holds, then with all."""
    warned: list[str] = []
    host = Host(Path(tempfile.gettempdir()), 2)
    network = Network(Path(sys.argv[1]), host, 4, warned.append)
    latent = np.random.default_rng(0).normal(size=(1, 4, 16, 12, 12)).astype(np.float32)
    good = network(latent)
    tries = []
    for megabytes in (8, 180, 500):
        host.forget()
        gc.collect()
        warned.clear()
        told = {"megabytes": megabytes, "difference": None, "sentence": None}
        with short_of_memory(os.getpid(), megabytes):
            try:
                told["difference"] = float(np.abs(network(latent) - good).max())
            except OutOfMemory as error:
                told["sentence"] = str(error)
        tries.append(told | {"warned": list(warned)})
    digests = [hashlib.sha256(found.tobytes()).hexdigest() for found in (good, network(latent))]
    print(json.dumps({"tries": tries, "digests": digests}))


if __name__ == "__main__":
    main()
