"""Rehearse operations under load: `scripts/reliability rehearsal`, as root on Linux.

Servers of the shipped variant run behind haproxy, each in a network namespace as on a separate
host. Clients send requests without pause. During this load, the rehearsal upgrades the servers to
other weights, one after the other, and rolls back. It then cuts a host off its network, and kills a
server. Every request is counted. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import time
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
from reliability.namespaces import HUB, HUB_ADDRESS, HostNetwork, command_prefix
from reliability.rehearsal_clients import steady_load

# Each server has a host and the ports in the balancer's configuration.
PORTS = ("--grpc-port=8001", "--http-port=8000", "--metrics-port=8002", "--status-port=8003")


def two_versions(folder: Path) -> tuple[Path, dict[str, int]]:
    """Write a repository with the shipped models as version 1 and changed models as version 2.

    The decoder of version 2 has other weights, so that its volumes differ. Return the repository,
    and the version for each SHA-256 of the decoder's weights.
    """
    source, mini = ROOT / "model_repository", variant.load("mini")
    digests = variant_in(source, "mini")["weights"]
    files = {}
    for model in source.glob("mini.*/1"):
        paths = [path for path in model.iterdir() if path.name != ".gitkeep"]
        if paths:
            files[model.parent.name.removeprefix("mini.")] = paths
    models, changed = folder / "models", folder / "changed"
    repository.write(models, mini, digests, files, "onnx", "fp32")
    shutil.copytree(source / "mini.vae_decoder" / "1", changed)
    last = sorted(changed.glob("*.onnx"))[-1]
    graph = onnx.load(last)
    weights = max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * 1.1, weights.name))
    onnx.save(graph, last)
    changed_digests = {**digests, "autoencoder": sha256(last)}
    changed_files = {**files, "vae_decoder": sorted(changed.iterdir())}
    repository.write(models, mini, changed_digests, changed_files, "onnx", "fp32", version=2)
    return models, {digests["autoencoder"]: 1, changed_digests["autoencoder"]: 2}


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
  bind {address}:8001 proto h2
  default_backend servers
backend servers
  balance leastconn
  option httpchk GET /ready
  http-check connect port 8003 proto h1
  http-check send meth GET uri /ready
  default-server proto h2 check inter 500ms fall 2 rise 1 on-marked-down shutdown-sessions
"""


@contextlib.contextmanager
def balancer(program: str, network: HostNetwork, folder: Path) -> Iterator[None]:
    """Run haproxy in the hub during the block."""
    servers = [
        f"  server host{host} {network.address(host)}:8001" for host in range(len(network.hosts))
    ]
    config = folder / "haproxy.cfg"
    config.write_text("\n".join([BALANCER.format(address=HUB_ADDRESS), *servers, ""]))
    words = [*command_prefix(HUB), program, "-db", "-f", str(config)]
    with (folder / "haproxy.log").open("w") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait()


def rehearse(hosts: int, clients: int, haproxy: str, folder: Path) -> dict[str, Any]:
    """Run all events under load; return the counts of requests and the seconds of the events."""
    models, versions = two_versions(folder)
    network = HostNetwork(hosts)
    servers: list[Server] = []
    seconds: dict[str, float] = {}
    numbers = itertools.count()

    def start(host: int, version: int) -> Server:
        words = [f"--host={network.address(host)}", *PORTS, f"--version={version}"]
        log = folder / f"server-{next(numbers)}.log"
        prefix = command_prefix(network.hosts[host])
        return Server(models, log, *words, "--drain-seconds=60", prefix=prefix)

    def roll(version: int) -> None:
        for host in range(hosts):
            servers[host].stop()
            servers[host] = start(host, version)

    def cut() -> None:
        network.link(0, "down")
        time.sleep(5)
        network.link(0, "up")
        time.sleep(3)

    def kill() -> None:
        servers[-1].die()
        time.sleep(3)
        servers[-1] = start(hosts - 1, 1)

    events: dict[str, Callable[[], None]] = {
        "upgrade": lambda: roll(2),
        "rollback": lambda: roll(1),
        "host cut off": cut,
        "server killed": kill,
    }
    try:
        servers = [start(host, 1) for host in range(hosts)]
        with (
            balancer(haproxy, network, folder),
            steady_load(command_prefix(HUB), f"{HUB_ADDRESS}:8001", clients) as end,
        ):
            time.sleep(2)
            for name, event in events.items():
                began = time.monotonic()
                event()
                seconds[name] = round(time.monotonic() - began, 1)
                print(f"{name}: {seconds[name]} s", file=sys.stderr, flush=True)
            counts = end()
    finally:
        for server in servers:
            if server.process.poll() is None:
                server.stop()
        network.close()
    by_version = {f"of version {n}": counts.pop(digest, 0) for digest, n in versions.items()}
    return {"servers": hosts, "clients": clients, "seconds": seconds, **by_version, **counts}


def table(report: dict[str, Any]) -> str:
    """Return the section of the page."""
    events = ", ".join(f"{name} {seconds} s" for name, seconds in report["seconds"].items())
    counts = ("sent", "answered", "failed", "retried", "of version 1", "of version 2")
    rows = page.table(counts, [[report.get(count, 0) for count in counts]])
    return (
        f"{report['servers']} servers on separate hosts (network namespaces) behind haproxy, and"
        f" {report['clients']} clients: {events}. Answers to one seed that differ between"
        f" servers: {len(report['different'])}.\n\n{rows}"
    )


def main() -> int:
    """Run the command; return its exit status.

    The status is 0 if every request was answered, and answers to one seed did not differ.
    """
    parser = argparse.ArgumentParser(prog="scripts/reliability rehearsal", description=__doc__)
    parser.add_argument("--servers", type=int, default=3, help="number of servers [%(default)s]")
    parser.add_argument("--clients", type=int, default=4, help="number of clients [%(default)s]")
    parser.add_argument("--haproxy", default="haproxy", help="program to run [%(default)s]")
    parser.add_argument(
        "--write", action="store_true", help="write the section of docs/reference/benchmarks.md"
    )
    options = parser.parse_args()
    if not shutil.which(options.haproxy):
        parser.error(f"--haproxy: {options.haproxy} does not exist; run: apt install haproxy")
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder:
        report = rehearse(options.servers, options.clients, options.haproxy, Path(folder))
    if options.write:
        page.write("Rehearsal", "scripts/reliability rehearsal --write", table(report))
    print(json.dumps(report))
    lost = report["sent"] - report.get("answered", 0)
    return int(lost > 0 or bool(report["different"]))


if __name__ == "__main__":
    sys.exit(main())
