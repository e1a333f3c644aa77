"""Faults of the machine: a full /dev/shm or disk, and readers that do not read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import grpc
from maisi_client import Client, MaisiError
from tritonclient.grpc import service_pb2_grpc as rpc
from tritonclient.utils import InferenceServerException

from bench import servers
from reliability import mutations
from reliability.scene import Scene, Wrong, private, sentence, until

_LARGE = (96, 112, 96)  # voxels: about 40 MB of /dev/shm
_ROOM = 3 << 20  # bytes that are left
_READERS, _SIDE = 4, 96
_GROWN = 64 << 20  # bytes that tritonserver may grow by, beside the answers that wait in it


def small_shm(folder: Path) -> list[str]:
    """Begin the command of a server with a /dev/shm of its own, of 96 MB."""
    return private("mount -t tmpfs -o size=96m tmpfs /dev/shm")


def fill_shm(scene: Scene) -> str:
    """Fill /dev/shm but for 3 MB; ask for what does not fit there, and for what does."""
    filler = scene.shm / "filler"
    try:
        with filler.open("wb") as file:
            free = shutil.disk_usage(scene.shm).free
            os.posix_fallocate(file.fileno(), 0, free - _ROOM)
        told = []
        with Client(scene.server.grpc, timeout=100, retries=0) as hasty:
            for ask in (
                lambda: hasty.generate(servers.picture(_LARGE), steps=1),
                lambda: scene.ensemble(_LARGE),
            ):
                try:
                    ask()
                except MaisiError as error:
                    told.append(sentence(error))
                except InferenceServerException as error:
                    told.append(sentence(error.message()))
        if len(told) != 2:
            raise Wrong("what cannot have had room was answered")
        if scene.good() != scene.sha256:
            raise Wrong("what has room gives other bytes")
    finally:
        filler.unlink(missing_ok=True)
    scene.client.generate(servers.picture(_LARGE), steps=1)
    return f"what did not fit was told: {told[0]}; what fits, and then all, went on"


def fill_disk(scene: Scene) -> str:
    """Have `maisi generate` write to a disk that is full."""
    folder = scene.folder / "disk"
    folder.mkdir(exist_ok=True)
    out = folder / "volume.nii.gz"
    command = f"{_maisi(scene)} generate --size=64,64,64 --steps=1 --output={out}"
    rc, left, said = _there(f"{command}; code=$?; ls -A {folder}; exit $code", folder, "100k")
    if not rc or left:
        raise Wrong(f"status {rc}, and {left or 'nothing'} is left")
    return f"nothing is left, and it said: {sentence(said)}"


def fill_disk_of_dataset(scene: Scene) -> str:
    """Have the disk of `maisi dataset` fill up; then make room, and go on."""
    folder, plan = scene.folder / "disk", scene.folder / "plan.csv"
    folder.mkdir(exist_ok=True)
    rows = [f'row{number},"48,48,48",1,{number}' for number in range(4)]
    plan.write_text("\n".join(["name,size,steps,seed", *rows]) + "\n")
    command = f"{_maisi(scene)} dataset {plan} --to={folder}/set --jobs=1"
    script = (
        f"head -c 900k /dev/zero >{folder}/filler; {command} >&2; first=$?; ls {folder}/set/images"
        f" | wc -l; ls -A {folder}/set/images | wc -l; rm {folder}/filler; {command} && echo $first"
    )
    rc, out, said = _there(script, folder, "1200k")
    words = out.split()
    made = words[0] if words else ""
    if rc or made not in ("1", "2", "3") or words[1] != made or words[-1] == "0":
        raise Wrong(f"status {rc}, said {out!r} and {said[-300:]!r}")
    if f"{made} kept" not in out or f"{4 - int(made)} done" not in out:
        raise Wrong(f"it did not go on where it was: {out!r}")
    last = sentence(said.strip().splitlines()[-1])
    return f"{made} of 4 rows were whole, no drafts; it said: {last}; with room it made the others"


def _maisi(scene: Scene) -> str:
    return f"MAISI_URL={scene.server.grpc} {sys.executable} -m maisi_client"


def _there(script: str, folder: Path, size: str) -> tuple[int, str, str]:
    """Run a script that sees a disk of a size at `folder`; return status, output and errors."""
    words = [*private(f"mount -t tmpfs -o size={size} tmpfs {folder}"), "sh", "-c", script]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout.strip(), done.stderr


def read_slowly(scene: Scene) -> str:
    """Ask from connections that read nothing for a while; one leaves, the others then read."""
    done = partial(scene.gauge, "maisi_requests_total", outcome="done")
    triton, before, held = scene.server.triton, done(), scene.server.triton.memory_info().rss
    with ExitStack() as stack:
        calls = []
        for _ in range(_READERS):
            channel = stack.enter_context(grpc.insecure_channel(scene.server.grpc, options=_WIDE))
            service = rpc.GRPCInferenceServiceStub(channel)
            request = mutations.good("mini.stream", _SIDE)
            calls.append(service.ModelStreamInfer(iter([request]), timeout=200))
        until(lambda: done() >= before + _READERS, 120, "all are made though nobody reads")
        began = time.monotonic()
        if scene.good() != scene.sha256:
            raise Wrong("others get other bytes")
        took, grown = time.monotonic() - began, triton.memory_info().rss - held
        if grown > _READERS * 3 * 2 * _SIDE**3 + _GROWN:
            raise Wrong(f"tritonserver grew by {grown >> 20} MB")
        calls[0].cancel()
        for call in calls[1:]:
            images = [answer for answer in call if _has_image(answer)]
            if len(images) != 1:
                raise Wrong("who read late did not get the volume")
    return (
        f"others were served meanwhile ({took:.1f} s); tritonserver held {grown >> 20} MB more; who"
        " read late got the whole volume"
    )


_WIDE = [("grpc.max_receive_message_length", -1)]


def _has_image(answer: object) -> bool:
    return any(each.name == "image" for each in answer.infer_response.outputs)  # type: ignore[attr-defined]
