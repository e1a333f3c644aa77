"""Run the clients of a rehearsal, which send requests without pause, in a separate process."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from maisi_client import Client, MaisiError

from bench import ROOT

STEPS, SIZE = 3, (32, 32, 32)
SEEDS = 8  # a small number, so that seeds repeat and answers to a seed can be compared


def send(url: str, count: int) -> None:
    """Send requests from `count` clients until standard input ends; print counts as JSON."""
    retries = Counter[str]()

    class Count(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            retries["retried"] += 1

    logging.getLogger("maisi_client").addHandler(Count())
    logging.getLogger("maisi_client").setLevel(logging.INFO)
    done = threading.Event()
    lock = threading.Lock()
    digests: dict[str, set[str]] = {}
    counts: Counter[str] = Counter()
    errors: list[str] = []

    def work(number: int) -> None:
        with Client(url, retries=12, idle_timeout=60, timeout=300) as client:
            while not done.is_set():
                seed = number % SEEDS
                number += count
                with lock:
                    counts["sent"] += 1
                try:
                    volume = client.generate(size=SIZE, steps=STEPS, seed=seed)
                except MaisiError as error:
                    with lock:
                        counts["failed"] += 1
                        errors.append(str(error))
                    continue
                weights = volume.report["weights"]["autoencoder"]
                pixels = hashlib.sha256(volume.image.get_fdata().tobytes()).hexdigest()
                with lock:
                    counts["answered"] += 1
                    counts[weights] += 1
                    digests.setdefault(f"{weights} {seed}", set()).add(pixels)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    print("sending", flush=True)
    sys.stdin.read()
    done.set()
    for thread in threads:
        thread.join()
    different = [key for key, values in digests.items() if len(values) > 1]
    print(json.dumps({**counts, **retries, "different": different, "errors": errors[:3]}))


@contextlib.contextmanager
def steady_load(
    prefix: Sequence[str], url: str, count: int
) -> Iterator[Callable[[], dict[str, Any]]]:
    """Run `count` clients during the block; yield a function that ends them.

    The function returns the counts of the clients.
    """
    words = [sys.executable, "-m", "reliability.rehearsal_clients", url, str(count)]
    process = subprocess.Popen(
        [*prefix, *words], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()

    def end() -> dict[str, Any]:
        output, _ = process.communicate(timeout=400)
        counts: dict[str, Any] = json.loads(output)
        return counts

    try:
        yield end
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    send(sys.argv[1], int(sys.argv[2]))
