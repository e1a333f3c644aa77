"""The images: their files are clean, and each step runs in a clean root file system."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import maisi_client
import pytest
import yaml

from tests.conftest import ROOT
from tests.docker import tools

DOCKER = ROOT / "docker"


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cpu"])
def test_hadolint_has_nothing_to_say(name: str) -> None:
    lint = Path(sys.executable).with_name("hadolint")
    assert tools.run(lint, "--failure-threshold=style", DOCKER / name) == ""


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cpu"])
def test_every_run_is_a_script_and_the_user_has_no_rights(name: str) -> None:
    text = re.sub(r"\\\n", " ", (DOCKER / name).read_text())
    for line in re.findall(r"^RUN (.*)$", text, re.MULTILINE):
        for command in line.split(" && "):
            step = re.search(r"docker/steps/(\w[\w-]*)$|/steps/(\w[\w-]*)$", command)
            assert step or re.fullmatch(r"rm -r \S+", command), command
            if step:
                script = DOCKER / "steps" / (step[1] or step[2])
                assert os.access(script, os.X_OK)
                tools.run("sh", "-n", script)
    assert re.findall(r"^USER (\S+)$", text, re.MULTILINE)[-1] == "10001:10001"
    for source in re.findall(r"^COPY (?!--from)(\S+) ", text, re.MULTILINE):
        assert (ROOT / source).exists()


def test_packages_are_pinned_to_what_is_in_them() -> None:
    for name in ("cpu", "gpu"):
        lines = (DOCKER / f"requirements-{name}.txt").read_text().splitlines()
        packages = [line for line in lines if line and not line.startswith("#")]
        assert len(packages) > 5
        for line in packages:
            assert re.fullmatch(r"\S+==\S+ --hash=sha256:[0-9a-f]{64}", line), line


def test_the_compose_file_says_what_is_there() -> None:
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    for service in compose["services"].values():
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file()
            assert service["read_only"] and service["cap_drop"] == ["ALL"]
            assert service["stop_grace_period"] == "340s"  # 300 + TELL, EXIT and a little
        for volume in service.get("volumes", []):
            assert (DOCKER / volume.split(":")[0]).exists()
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_cpu_image_is_built_and_answers(tmp_path: Path) -> None:
    """Built by buildah from a new Debian; the server runs without rights on a read-only root."""
    tools.need("buildah", "mmdebstrap", "unshare")
    buildah = ["buildah", f"--root={tmp_path / 'storage'}", f"--runroot={tmp_path / 'run'}"]
    env = {**os.environ, "STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}
    tools.run("mmdebstrap", "--variant=minbase", "bookworm", tmp_path / "debian.tar")
    (tmp_path / "Base").write_text("FROM scratch\nADD debian.tar /\n")
    tools.run(*buildah, "bud", "-t", "debian-here", "-f", tmp_path / "Base", tmp_path, env=env)
    trusted, there = "/etc/ssl/certs/ca-certificates.crt", "/mnt/trusted.pem"
    made = [*buildah, "bud", "-t", "maisi-cpu", "--build-arg=BASE=localhost/debian-here"]
    made += [f"--volume={trusted}:{there}:ro", f"--env=PIP_CERT={there}"]
    tools.run(*made, "-f", DOCKER / "Dockerfile.cpu", ROOT, env=env)
    container = tools.run(*buildah, "from", "maisi-cpu", env=env).strip()
    root = tools.run(*buildah, "mount", container, env=env).strip()
    inspected = tools.run(*buildah, "inspect", "--type=image", "maisi-cpu", env=env)
    assert '"User": "10001:10001"' in inspected
    answer(Path(root), ["/opt/maisi/venv/bin/python", "-m", "server"], tmp_path)


def answer(root: Path, entry: list[str], folder: Path) -> None:
    """Run the entry point as Kubernetes does, and ask it for the quickstart's volume."""
    inside = " && ".join(
        [
            f"mount --bind {root} {root}",
            f"mount -o remount,bind,ro {root}",
            f"mount -t tmpfs tmpfs {root}/tmp",
            f"mount -t proc proc {root}/proc",
            f"mount --rbind /dev {root}/dev",
            f"mount -t tmpfs tmpfs {root}/dev/shm",
            f"exec chroot --userspec=10001:10001 {root} env HOME=/nonexistent"
            f" PYTHONDONTWRITEBYTECODE=1 sh -c 'cd /opt/maisi && exec {' '.join(entry)}"
            " --host 127.0.0.1 --grpc-port 0 --http-port 0 --metrics-port 0 --status-port 0'",
        ]
    )
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            ["unshare", "--mount", "--propagation=private", "sh", "-c", inside],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        line = process.stdout.readline()
        assert line.startswith("ready:"), (folder / "server.log").read_text()[-4000:]
        places = dict(word.split("=") for word in line.split()[1:])
        with maisi_client.Client(places["grpc"]) as client:
            volume = client.generate(
                ROOT / "examples" / "brain_mask.nii.gz", modality="mri_t1", seed=7, steps=5
            )
        assert volume.image.get_fdata().std() > 50
        with urllib.request.urlopen(f"http://{places['status']}/ready") as told:
            assert told.status == 200
    finally:
        process.terminate()
        started = time.monotonic()
        process.wait(60)
        assert time.monotonic() - started < 30
    assert shutil.disk_usage("/dev/shm").used < 1 << 30
