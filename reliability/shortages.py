"""Cause faults of the machine: fill /dev/shm or a disk, and run clients that do not read."""

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
from reliability.fault_target import FaultTarget, Wrong, checked_sentence, in_mount_namespace, until

_LARGE = (96, 112, 96)  # voxels: about 40 MB of /dev/shm
_FREE = 3 << 20  # bytes of /dev/shm that stay free
_READERS, _SIDE = 4, 96
_GROWTH = 64 << 20  # bytes by which tritonserver may grow, in addition to unread answers


def small_shm(folder: Path) -> list[str]:
    """Return a command prefix that runs the server with a separate /dev/shm of 96 MiB."""
    return in_mount_namespace("mount -t tmpfs -o size=96m tmpfs /dev/shm")


def fill_shm(target: FaultTarget) -> str:
    """Fill /dev/shm except for 3 MiB; request a volume that does not fit, and one that fits."""
    filler = target.shm / "filler"
    try:
        with filler.open("wb") as file:
            free = shutil.disk_usage(target.shm).free
            os.posix_fallocate(file.fileno(), 0, free - _FREE)
        errors = []
        with Client(target.server.grpc, timeout=100, retries=0) as hasty:
            for ask in (
                lambda: hasty.generate(servers.picture(_LARGE), steps=1),
                lambda: target.ensemble(_LARGE),
            ):
                try:
                    ask()
                except MaisiError as error:
                    errors.append(checked_sentence(error))
                except InferenceServerException as error:
                    errors.append(checked_sentence(error.message()))
        if len(errors) != 2:
            raise Wrong("a request that does not fit was answered")
        if target.good() != target.sha256:
            raise Wrong("a request that fits returned different bytes")
    finally:
        filler.unlink(missing_ok=True)
    target.client.generate(servers.picture(_LARGE), steps=1)
    return f"a request that did not fit got: {errors[0]}; all other requests succeeded"


def fill_disk(target: FaultTarget) -> str:
    """Run `maisi generate` with a full disk."""
    folder = target.folder / "disk"
    folder.mkdir(exist_ok=True)
    out = folder / "volume.nii.gz"
    command = f"{_maisi(target)} generate --size=64,64,64 --steps=1 --output={out}"
    script = f"{command}; code=$?; ls -A {folder}; exit $code"
    status, listing, stderr = _run_on_disk(script, folder, "100k")
    if not status or listing:
        raise Wrong(f"the status is {status}, and the folder has {listing or 'no files'}")
    return f"no file remains, and the command printed: {checked_sentence(stderr)}"


def fill_disk_of_dataset(target: FaultTarget) -> str:
    """Run `maisi dataset` until the disk is full; then free space and resume."""
    folder, plan = target.folder / "disk", target.folder / "plan.csv"
    folder.mkdir(exist_ok=True)
    rows = [f'row{number},"48,48,48",1,{number}' for number in range(4)]
    plan.write_text("\n".join(["name,size,steps,seed", *rows]) + "\n")
    command = f"{_maisi(target)} dataset {plan} --to={folder}/set --jobs=1"
    script = (
        f"head -c 900k /dev/zero >{folder}/filler; {command} >&2; first=$?; ls {folder}/set/images"
        f" | wc -l; ls -A {folder}/set/images | wc -l; rm {folder}/filler; {command} && echo $first"
    )
    status, out, stderr = _run_on_disk(script, folder, "1200k")
    words = out.split()
    count = words[0] if words else ""
    if status or count not in ("1", "2", "3") or words[1] != count or words[-1] == "0":
        raise Wrong(f"the status is {status}; the output is {out!r} and {stderr[-300:]!r}")
    if f"{count} kept" not in out or f"{4 - int(count)} done" not in out:
        raise Wrong(f"the command did not resume: {out!r}")
    last = checked_sentence(stderr.strip().splitlines()[-1])
    return (
        f"{count} of 4 rows were complete, without drafts; the command printed: {last}; the second"
        " run made the other rows"
    )


def _maisi(target: FaultTarget) -> str:
    return f"MAISI_URL={target.server.grpc} {sys.executable} -m maisi_client"


def _run_on_disk(script: str, folder: Path, size: str) -> tuple[int, str, str]:
    """Run a script with a disk of `size` mounted at `folder`.

    Return the exit status, standard output and standard error.
    """
    prefix = in_mount_namespace(f"mount -t tmpfs -o size={size} tmpfs {folder}")
    words = [*prefix, "sh", "-c", script]
    process = subprocess.run(words, capture_output=True, text=True, timeout=300)
    return process.returncode, process.stdout.strip(), process.stderr


def read_slowly(target: FaultTarget) -> str:
    """Send requests from connections that do not read; cancel one and then read the others."""
    done = partial(target.gauge, "maisi_requests_total", outcome="done")
    triton, before, resident = target.server.triton, done(), target.server.triton.memory_info().rss
    with ExitStack() as stack:
        calls = []
        for _ in range(_READERS):
            channel = stack.enter_context(grpc.insecure_channel(target.server.grpc, options=_WIDE))
            service = rpc.GRPCInferenceServiceStub(channel)
            request = mutations.good("mini.stream", _SIDE)
            calls.append(service.ModelStreamInfer(iter([request]), timeout=200))
        until(lambda: done() >= before + _READERS, 120, "all volumes are made without readers")
        began = time.monotonic()
        if target.good() != target.sha256:
            raise Wrong("another client got different bytes")
        seconds, growth = time.monotonic() - began, triton.memory_info().rss - resident
        if growth > _READERS * 3 * 2 * _SIDE**3 + _GROWTH:
            raise Wrong(f"tritonserver grew by {growth >> 20} MiB")
        calls[0].cancel()
        for call in calls[1:]:
            images = [answer for answer in call if _has_image(answer)]
            if len(images) != 1:
                raise Wrong("a late reader did not get the volume")
    return (
        f"another client was served meanwhile ({seconds:.1f} s); tritonserver grew by"
        f" {growth >> 20} MiB; late readers got the whole volume"
    )


_WIDE = [("grpc.max_receive_message_length", -1)]


def _has_image(answer: object) -> bool:
    outputs = answer.infer_response.outputs  # type: ignore[attr-defined]
    return any(output.name == "image" for output in outputs)
