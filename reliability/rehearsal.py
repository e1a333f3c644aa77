"""Operations rehearsed under load: `scripts/reliability rehearsal`, as root on Linux.

Servers of the shipped variant, each in a network namespace of its own as on a host of its own,
behind haproxy as a gRPC load balancer, and clients that never stop asking. Then what operators do
and fear: an upgrade to other weights, one server after another, and back again; a host that is cut
off; one that is killed. Every request is counted; the last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import logging
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper

from bench import ROOT, page
from bench.launcher import Server
from bench.servers import variant_in
from export import repository, variant
from export.files import sha256

HUB, NET = "maisi-hub", "10.213.0"
STEPS, SIZE = 3, (32, 32, 32)
# Each server has its host for itself, and the ports that the balancer knows.
PORTS = ("--grpc-port=8001", "--http-port=8000", "--metrics-port=8002", "--status-port=8003")
SEEDS = 8  # so that answers to one seed can be compared


def run(*words: str, check: bool = True) -> None:
    """Run a command."""
    subprocess.run(words, check=check, capture_output=not check)


class Network:
    """A hub, where balancer and clients are, and hosts around it, in namespaces."""

    def __init__(self, hosts: int) -> None:
        """Lay it; `close` takes it away."""
        self.hosts = [f"maisi-{number}" for number in range(1, hosts + 1)]
        self.close()
        for name in (HUB, *self.hosts):
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", HUB, "link", "add", "bridge", "type", "bridge")
        run("ip", "-n", HUB, "link", "set", "bridge", "up")
        run("ip", "-n", HUB, "addr", "add", f"{NET}.1/24", "dev", "bridge")
        for number, name in enumerate(self.hosts, 1):
            run(*f"ip -n {HUB} link add {name} type veth peer name eth netns {name}".split())
            run(*f"ip -n {HUB} link set {name} master bridge up".split())
            run(*f"ip -n {name} addr add {NET}.{10 + number}/24 dev eth".split())
            run(*f"ip -n {name} link set eth up".split())

    def address(self, host: int) -> str:
        """Return the address of a host."""
        return f"{NET}.{11 + host}"

    def cable(self, host: int, state: str) -> None:
        """Pull a host's cable, `down`, or put it back, `up`."""
        run("ip", "-n", HUB, "link", "set", self.hosts[host], state)

    def close(self) -> None:
        """Take everything away."""
        for name in (*self.hosts, HUB):
            run("ip", "netns", "del", name, check=False)


def two_versions(folder: Path) -> tuple[Path, dict[str, int]]:
    """Make a repository with the shipped models as version 1 and changed ones as version 2.

    Returns it, and the digest of the decoder's weights -> version. The second version's decoder has
    other weights, so that its volumes differ.
    """
    source, chosen = ROOT / "model_repository", variant.load("mini")
    digests = variant_in(source, "mini")["weights"]
    files = {}
    for model in source.glob("mini.*/1"):
        found = [path for path in model.iterdir() if path.name != ".gitkeep"]
        if found:
            files[model.parent.name.removeprefix("mini.")] = found
    models, changed = folder / "models", folder / "changed"
    repository.write(models, chosen, digests, files, "onnx", "fp32")
    shutil.copytree(source / "mini.vae_decoder" / "1", changed)
    last = sorted(changed.glob("*.onnx"))[-1]
    graph = onnx.load(last)
    weights = max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * 1.1, weights.name))
    onnx.save(graph, last)
    newer = {**digests, "autoencoder": sha256(last)}
    given = {**files, "vae_decoder": sorted(changed.iterdir())}
    repository.write(models, chosen, newer, given, "onnx", "fp32", version=2)
    return models, {digests["autoencoder"]: 1, newer["autoencoder"]: 2}


BALANCER = """
global
  maxconn 1000
defaults
  mode http
  timeout connect 2s
  timeout client 10m
  timeout server 10m
  timeout queue 30s
  option redispatch
  retries 3
frontend grpc
  bind {net}.1:8001 proto h2
  default_backend servers
backend servers
  balance leastconn
  option httpchk GET /ready
  http-check connect port 8003 proto h1
  http-check send meth GET uri /ready
  default-server proto h2 check inter 500ms fall 2 rise 1 on-marked-down shutdown-sessions
"""


@contextlib.contextmanager
def balancer(program: str, network: Network, folder: Path) -> Iterator[None]:
    """Run haproxy in the hub."""
    servers = [
        f"  server host{host} {network.address(host)}:8001" for host in range(len(network.hosts))
    ]
    config = folder / "haproxy.cfg"
    config.write_text("\n".join([BALANCER.format(net=NET), *servers, ""]))
    words = ["ip", "netns", "exec", HUB, program, "-db", "-f", str(config)]
    with (folder / "haproxy.log").open("w") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait()


def clients(count: int) -> None:
    """Ask until standard input ends; print counts as JSON. Runs in the hub."""
    from maisi_client import Client, MaisiError

    again = Counter[str]()

    class Count(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            again["retried"] += 1

    logging.getLogger("maisi_client").addHandler(Count())
    logging.getLogger("maisi_client").setLevel(logging.INFO)
    done = threading.Event()
    lock = threading.Lock()
    seen: dict[str, set[str]] = {}
    counts: Counter[str] = Counter()
    errors: list[str] = []

    def ask(number: int) -> None:
        with Client(f"{NET}.1:8001", retries=12, idle_timeout=60, timeout=300) as client:
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
                    seen.setdefault(f"{weights} {seed}", set()).add(pixels)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    print("asking", flush=True)
    sys.stdin.read()
    done.set()
    for thread in threads:
        thread.join()
    different = [key for key, found in seen.items() if len(found) > 1]
    print(json.dumps({**counts, **again, "different": different, "errors": errors[:3]}))


@contextlib.contextmanager
def load(count: int) -> Iterator[Callable[[], dict[str, Any]]]:
    """Keep `count` clients asking; yields what ends them and returns their counts."""
    words = ["ip", "netns", "exec", HUB, sys.executable, "-m", "reliability.rehearsal", "--load"]
    process = subprocess.Popen(
        [*words, str(count)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()

    def end() -> dict[str, Any]:
        told, _ = process.communicate(timeout=400)
        found: dict[str, Any] = json.loads(told)
        return found

    try:
        yield end
    finally:
        process.kill()
        process.wait()


def rehearse(hosts: int, asking: int, haproxy: str, folder: Path) -> dict[str, Any]:
    """Do it all, and return the counts."""
    models, versions = two_versions(folder)
    network = Network(hosts)
    servers: list[Server] = []
    seconds: dict[str, float] = {}
    numbers = itertools.count()

    def start(host: int, version: int) -> Server:
        words = [f"--host={network.address(host)}", *PORTS, f"--version={version}"]
        log = folder / f"server-{next(numbers)}.log"
        prefix = ("ip", "netns", "exec", network.hosts[host])
        return Server(models, log, *words, "--drain-seconds=60", prefix=prefix)

    def roll(version: int) -> None:
        for host in range(hosts):
            servers[host].stop()
            servers[host] = start(host, version)

    def cut() -> None:
        network.cable(0, "down")
        time.sleep(5)
        network.cable(0, "up")
        time.sleep(3)

    def kill() -> None:
        servers[-1].die()
        time.sleep(3)
        servers[-1] = start(hosts - 1, 1)

    acts: dict[str, Callable[[], None]] = {
        "upgrade": lambda: roll(2),
        "rollback": lambda: roll(1),
        "host cut off": cut,
        "server killed": kill,
    }
    try:
        servers = [start(host, 1) for host in range(hosts)]
        with balancer(haproxy, network, folder), load(asking) as end:
            time.sleep(2)
            for name, act in acts.items():
                began = time.monotonic()
                act()
                seconds[name] = round(time.monotonic() - began, 1)
                print(f"{name}: {seconds[name]} s", file=sys.stderr, flush=True)
            counts = end()
    finally:
        for server in servers:
            if server.process.poll() is None:
                server.stop()
        network.close()
    by_version = {f"of version {n}": counts.pop(digest, 0) for digest, n in versions.items()}
    return {"servers": hosts, "clients": asking, "seconds": seconds, **by_version, **counts}


def table(found: dict[str, Any]) -> str:
    """Return the counts as the section of the page."""
    acts = ", ".join(f"{name} {took} s" for name, took in found["seconds"].items())
    counts = ("sent", "answered", "failed", "retried", "of version 1", "of version 2")
    counted = page.table(counts, [[found.get(count, 0) for count in counts]])
    return (
        f"{found['servers']} servers on hosts (network namespaces) of their own behind haproxy, and"
        f" {found['clients']} clients: {acts}. Answers to one seed from different servers that"
        f" differ: {len(found['different'])}.\n\n{counted}"
    )


def main() -> int:
    """Run the command line; return 0 if every request was answered, and the same for one seed."""
    parser = argparse.ArgumentParser(prog="scripts/reliability rehearsal", description=__doc__)
    parser.add_argument("--servers", type=int, default=3)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--haproxy", default="haproxy", help="the program")
    parser.add_argument("--write", action="store_true", help="write it to docs/benchmarks.md")
    parser.add_argument("--load", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        clients(options.load)
        return 0
    if not shutil.which(options.haproxy):
        parser.error(f"{options.haproxy} is not here: apt install haproxy")
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder:
        found = rehearse(options.servers, options.clients, options.haproxy, Path(folder))
    if options.write:
        page.write("Rehearsal", "scripts/reliability rehearsal --write", table(found))
    print(json.dumps(found))
    lost = found["sent"] - found.get("answered", 0)
    return int(lost > 0 or bool(found["different"]))


if __name__ == "__main__":
    sys.exit(main())
