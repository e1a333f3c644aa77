"""Send wrong messages to a server, which must not crash, hang, or reveal internals in an answer.

The messages are invalid KServe v2 requests from `reliability.mutations`, and random bytes. They go
to both endpoints and all inner models, by gRPC and HTTP. Networks receive requests with the
server's token, as stages send them. After each new kind of answer (a sentence without its numbers
and names) and after each round, good requests must return the same bytes as at the beginning. The
command also reads damaged files: the example mask with some changed bytes. The last line of the
output is JSON. The exit status is 1 if there is a finding. With --attacks, the command sends
compression bombs, floods and idle connections instead (`reliability.attacks`).
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import os
import random
import re
import secrets
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import nibabel as nib
import numpy as np
from maisi_client import Client, MaisiError
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as rpc

from backends.engines.guard import ENV
from bench import ROOT, network_inputs, servers
from bench.launcher import Server
from reliability import attacks, mutations

_LONGEST = 60.0  # seconds for an answer: a refusal, or one step of a small volume
_ROUND = 1000  # messages between two good requests
_TELLTALE = re.compile(r"Traceback|File \"|\.py\b|/tmp/|/home/|/root/|/usr/|/dev/shm|site-packages")
_SERVICE = "/inference.GRPCInferenceService/"


class Answer(NamedTuple):
    """The outcome of a message, and the sentence in its answer.

    Outcomes are `answered`, `refused`, `hung`, `revealed: ...` for internals in an answer,
    and `lost: ...` for a broken connection.
    """

    outcome: str
    sentence: str = ""

    @property
    def kind(self) -> str:
        """The sentence without numbers, names and lists."""
        return re.sub(r"'[^']*'|\[[^]]*\]|-?[\w.]*\d[\w.]*", "#", self.sentence)[:100]


def messages(
    url: str,
    http: str,
    models: list[str],
    inner: Mapping[str, Sequence[pb.ModelInferRequest]],
    chance: random.Random,
) -> Iterator[Answer]:
    """Send wrong messages without end; yield the answers.

    `url` is the gRPC address and `http` the HTTP address of the server. `inner` has the requests of
    stages to each network, see `mutations.wrong`.
    """
    with grpc.insecure_channel(url) as channel:
        stub = rpc.GRPCInferenceServiceStub(channel)
        raw = channel.unary_unary(f"{_SERVICE}ModelInfer")
        while True:
            kind = chance.random()
            try:
                if kind < 0.05:
                    raw(chance.randbytes(chance.randint(0, 300)), timeout=_LONGEST)
                    yield Answer("answered")
                elif kind < 0.1:
                    yield _classify(_post(http, models, chance))
                else:
                    request = mutations.wrong(chance, models, inner)
                    if request.model_name.endswith(".stream"):
                        yield _classify(_streamed(stub, request))
                    else:
                        stub.ModelInfer(request, timeout=_LONGEST)
                        yield Answer("answered")
            except grpc.RpcError as error:
                yield _of_rpc(error)
            except OSError as error:
                yield Answer(f"lost: {error}")


def _of_rpc(error: Any) -> Answer:
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return Answer("hung")
    if error.code() == grpc.StatusCode.UNAVAILABLE and "onnect" in error.details():
        return Answer(f"lost: {error.details()}")
    return _classify(error.details())


def _classify(message: str) -> Answer:
    if not message:
        return Answer("answered")
    outcome = f"revealed: {message[:300]}" if _TELLTALE.search(message) else "refused"
    return Answer(outcome, message)


def _streamed(stub: Any, request: pb.ModelInferRequest) -> str:
    for answer in stub.ModelStreamInfer(iter([request]), timeout=_LONGEST):
        if answer.error_message:
            return str(answer.error_message)
    return ""


def _post(http: str, models: list[str], chance: random.Random) -> str:
    """Send an HTTP request of wrong length or body; return the body of the answer."""
    body = chance.choice((b"{}", b"{", chance.randbytes(50), b'{"inputs": [{"shape": [-1]}]}'))
    length = chance.choice((len(body), len(body) // 2, 0, -1, 2**63, "x"))
    head = chance.choice((None, len(body), len(body) + 9, -1, 2**40))
    lines = [f"POST /v2/models/{chance.choice(models)}/infer HTTP/1.1", "Host: x"]
    lines += [f"Content-Length: {length}", "Connection: close"]
    lines += [] if head is None else [f"Inference-Header-Content-Length: {head}"]
    host, _, port = http.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=_LONGEST) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.makefile("rb").read(10_000)
    return answer.partition(b"\r\n\r\n")[2].decode(errors="replace") or "closed"


def files(chance: random.Random, folder: Path) -> Iterator[str]:
    """Read damaged masks without end; yield the outcome of each."""
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # nibabel warns of repairs
    whole, client = gzip.decompress(servers.MASK.read_bytes()), Client("127.0.0.1:9")
    while True:
        data = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            at = chance.randrange(352 if chance.random() < 0.9 else len(data))
            data[at] = chance.randrange(256)
        if chance.random() < 0.2:
            del data[chance.randrange(len(data)) :]
        path = folder / chance.choice(("mask.nii", "mask.nii.gz"))
        packed = gzip.compress(bytes(data), 1) if path.suffix == ".gz" else bytes(data)
        if chance.random() < 0.2:
            packed = packed[: chance.randrange(len(packed))]
        path.write_bytes(packed)
        try:
            client.stream(path).close()  # reads the mask and sends nothing
            yield "answered"
        except MaisiError as error:
            yield "refused" if "Traceback" not in str(error) else f"revealed: {error}"
        except Exception as error:
            yield f"crashed: {type(error).__name__}: {error}"


def fuzz(server: Server, token: str, cases: int, seed: int) -> dict[str, Any]:
    """Send `cases` messages, and read `cases` / 10 files; return counts and findings.

    `token` is the token of the server's stages, see `backends/engines/guard.py`.
    """
    chance, outcomes, started = random.Random(seed), Counter[str](), time.monotonic()
    findings: list[str] = []

    def count(outcome: str) -> None:
        outcomes[outcome.partition(":")[0]] += 1
        if outcome not in ("answered", "refused"):
            findings.append(outcome)

    kinds: set[str] = set()
    with Client(server.grpc) as client:
        with servers.connected(server.grpc) as connection:
            served = network_inputs.of_server(connection)
        inner = {network.name: network_inputs.infer_requests(network, token) for network in served}
        models = sorted(servers.statistics(server.grpc))
        before = _good(client, seed)
        answers = messages(server.grpc, server.http, models, inner, chance)
        for number in range(1, cases + 1):
            answer = next(answers)
            count(answer.outcome)
            new = answer.kind not in kinds
            kinds.add(answer.kind)
            if new or number % _ROUND == 0 or number == cases or outcomes["lost"]:
                try:
                    if _good(client, seed) != before:
                        findings.append(f"different bytes after {number} cases, the last: {answer}")
                except MaisiError as error:
                    sentence = f"no good volume after {number} cases, the last: {answer}"
                    findings.append(f"{sentence}: {error}")
                    break
                outcomes.pop("lost", None)
            if number % _ROUND == 0:
                print(f"{number} of {cases}: {dict(outcomes)}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        answers_to_files = files(chance, Path(folder))
        for _ in range(cases // 10):
            count(next(answers_to_files))
    seconds = round(time.monotonic() - started, 1)
    counts = {"cases": cases, "files": cases // 10, "kinds": len(kinds), "seed": seed}
    return {**counts, "seconds": seconds, **outcomes, "found": sorted(set(findings))[:20]}


def _good(client: Client, seed: int) -> list[dict[str, str]]:
    """Return the digests of two volumes, which use all networks except those for a source."""
    arguments: dict[str, Any] = {"steps": 1, "seed": seed, "modality": "mri_t2"}
    mask = nib.Nifti1Image(np.full((32, 32, 32), 22, np.uint8), np.diag([2, 2, 2, 1]))
    volumes = client.generate(size=[32, 32, 32], **arguments), client.generate(mask, **arguments)
    return [volume.report["sha256"] for volume in volumes]


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="scripts/reliability fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000, help="messages [%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="seed of the cases [0]")
    parser.add_argument(
        "--repository", type=Path, default=ROOT / "model_repository", help="model repository"
    )
    parser.add_argument("--attacks", action="store_true", help="run the attacks instead")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        choices=attacks.ATTACKS,
        default=[*attacks.ATTACKS],
        help=f"attacks to run: {', '.join(attacks.ATTACKS)} [all]",
    )
    options = parser.parse_args()
    log = ROOT / "build" / "fuzz.log"  # kept for findings
    log.parent.mkdir(exist_ok=True)
    if options.attacks:
        report = attacks.attack(options.repository, options.only, False, log)
    else:
        token = os.environ.setdefault(ENV, secrets.token_hex(16))  # inherited by the server
        with servers.keyed(options.repository, log, "--models=mini") as (server, _):
            report = fuzz(server, token, options.cases, options.seed)
    print(json.dumps(report))
    return int(bool(report["found"]))


if __name__ == "__main__":
    sys.exit(main())
