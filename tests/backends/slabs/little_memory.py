"""Decodes with little memory, as a program, and prints the results as JSON."""

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
from backends.slabs.chain_runner import ChainRunner
from backends.slabs.cpu import Cpu
from tests.backends.shortage import short_of_memory


def main() -> None:
    """Decode with all memory, then with a few megabytes beyond the engines', then with all."""
    warnings: list[str] = []
    cpu = Cpu(Path(tempfile.gettempdir()), 2)
    runner = ChainRunner(Path(sys.argv[1]), cpu, 4, warnings.append)
    latent = np.random.default_rng(0).normal(size=(1, 4, 16, 12, 12)).astype(np.float32)
    expected = runner(latent)
    attempts = []
    for megabytes in (8, 160, 500):
        cpu.forget()
        gc.collect()
        warnings.clear()
        attempt = {"megabytes": megabytes, "difference": None, "sentence": None}
        with short_of_memory(os.getpid(), megabytes):
            try:
                attempt["difference"] = float(np.abs(runner(latent) - expected).max())
            except OutOfMemory as error:
                attempt["sentence"] = str(error)
        attempts.append(attempt | {"warnings": list(warnings)})
    digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in (expected, runner(latent))]
    print(json.dumps({"attempts": attempts, "digests": digests}))


if __name__ == "__main__":
    main()
