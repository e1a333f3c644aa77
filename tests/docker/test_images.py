"""The images: their files pass hadolint, and each step runs in a new root file system."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import maisi_client
import pytest
import yaml

from docker import lock
from server import __main__ as serve
from tests.conftest import PATIENCE, ROOT
from tests.docker import tools

DOCKER = ROOT / "docker"
TRUSTED = "/mnt/trusted.pem"  # in the image: the CAs that this computer trusts
FILES = ["Dockerfile", "Dockerfile.cpu", "Dockerfile.client"]


@pytest.mark.parametrize("name", FILES)
def test_hadolint_has_nothing_to_say(name: str) -> None:
    lint = Path(sys.executable).with_name("hadolint")
    assert tools.run(lint, "--failure-threshold=style", DOCKER / name) == ""


@pytest.mark.parametrize("name", FILES)
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
    for name in ("cpu", "gpu", "client"):
        lines = (DOCKER / f"requirements-{name}.txt").read_text().splitlines()
        packages = [line for line in lines if line and not line.startswith("#")]
        assert len(packages) > 5
        for line in packages:
            assert re.fullmatch(r"\S+==\S+ --hash=sha256:[0-9a-f]{64}", line), line


def test_the_client_image_has_the_packages_for_dicom() -> None:
    wanted = lock.client_packages()
    lines = (DOCKER / "requirements-client.txt").read_text().splitlines()
    locked = {line.partition("==")[0].lower() for line in lines}
    assert {re.split(r"[^\w-]", name)[0].lower() for name in wanted} <= locked


def test_the_compose_file_names_what_exists_and_reserves_the_gpus_that_are_used() -> None:
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    servers = {name: compose["services"][f"server-{name}"] for name in ("cpu", "gpu")}
    assert {name: server.get("gpus") for name, server in servers.items()} == {
        "cpu": None,
        "gpu": "all",
    }
    target = "/opt/maisi/model_repository"
    assert f"COPY model_repository {target}\n" in (DOCKER / "Dockerfile").read_text()
    assert servers["gpu"]["volumes"] == [f"${{MAISI_MODELS:-../model_repository}}:{target}:ro"]
    for service in compose["services"].values():
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file()
            assert service["read_only"] and service["cap_drop"] == ["ALL"]
            assert service["stop_grace_period"] == "340s"  # 300 + GRACE, EXIT and a little
            assert "healthcheck" not in service  # the image has one
        for volume in service.get("volumes", []):
            source = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", volume)
            assert (DOCKER / source.split(":")[0]).exists()
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")


@pytest.mark.parametrize(
    ("environ", "endpoint"),
    [
        ({}, None),
        ({"MAISI_TRACE_ENDPOINT": ""}, None),
        ({"MAISI_TRACE_ENDPOINT": "http://collector:4318"}, "http://collector:4318"),
    ],
)
def test_compose_has_a_setting_for_traces_and_none_for_gpus(
    environ: dict[str, str], endpoint: str | None
) -> None:
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    for name in ("server-cpu", "server-gpu"):
        # A shell expands what the file has of compose's syntax as compose does.
        words = tools.run(
            "sh", "-c", f"printf '%s\\n' {compose['services'][name]['command']}", env=environ
        ).splitlines()
        options = serve.arguments(words)
        assert (options.host, options.trace_endpoint) == ("0.0.0.0", endpoint)
        assert options.gpus is None  # so all that `gpus` reserves


class Builder:
    """buildah, whose storage is in a folder of the test."""

    def __init__(self, folder: Path) -> None:
        tools.need("buildah", "mmdebstrap", "unshare")
        self.words = ["buildah", f"--root={folder / 'storage'}", f"--runroot={folder / 'run'}"]
        self.env = {**os.environ, "STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}

    def __call__(self, *words: object) -> str:
        return tools.run(*self.words, *words, env=self.env).strip()

    def build(self, name: str, file: Path, context: Path, *args: str) -> None:
        """Build as docker would; pip in the image trusts the CAs of this computer."""
        volume = f"--volume=/etc/ssl/certs/ca-certificates.crt:{TRUSTED}:ro"
        # OCI's format has no HEALTHCHECK.
        self("bud", "--format=docker", "-t", name, volume, *args, "-f", file, context)

    def config(self, image: str) -> dict[str, Any]:
        """Return what Docker has on an image."""
        config: dict[str, Any] = json.loads(self("inspect", "--type=image", image))["Docker"][
            "config"
        ]
        return config

    def root(self, image: str) -> Path:
        """Return where a container of the image has its root."""
        config = self.config(image)
        assert config["User"] == "10001:10001"
        assert config["Labels"]["org.opencontainers.image.title"] == image
        assert config["Labels"]["org.opencontainers.image.base.name"].startswith("localhost/")
        return Path(self("mount", self("from", image)))


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    """Return a builder that has a new Debian as `debian-here`."""
    folder = tmp_path_factory.mktemp("images")
    builder = Builder(folder)
    tools.run("mmdebstrap", "--variant=minbase", "bookworm", folder / "debian.tar")
    # In the base, as what `buildah bud --env` sets is not seen by the first stage's own RUNs.
    (folder / "Base").write_text(f"FROM scratch\nADD debian.tar /\nENV PIP_CERT={TRUSTED}\n")
    builder("bud", "-t", "debian-here", "-f", folder / "Base", folder)
    yield builder
    builder("umount", "--all")
    builder("rm", "--all")
    builder("rmi", "--all", "--force")


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_cpu_image_is_built_and_answers(builder: Builder, tmp_path: Path) -> None:
    file = DOCKER / "Dockerfile.cpu"
    builder.build("maisi-cpu", file, ROOT, "--build-arg=BASE=localhost/debian-here")
    entry = ["/opt/maisi/venv/bin/python", "-m", "server"]
    answer(builder, "maisi-cpu", entry, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_client_image_is_built_and_runs(builder: Builder) -> None:
    file = DOCKER / "Dockerfile.client"
    builder.build("maisi-client", file, ROOT, "--build-arg=BASE=localhost/debian-here")
    root = builder.root("maisi-client")
    assert "Healthcheck" not in builder.config("maisi-client")
    maisi = "/opt/maisi/venv/bin/maisi"
    text = tools.run("chroot", "--userspec=10001:10001", root, maisi, "dataset", "--help")
    assert "--shard" in text
    check = "from maisi_client._dicom.segmentation_writer import require_dicom; require_dicom()"
    python = Path(maisi).with_name("python")
    tools.run("chroot", "--userspec=10001:10001", root, python, "-c", check)


def test_what_builds_engines_has_the_tensorrt_that_runs_them() -> None:
    pinned = re.compile(r"tensorrt[_-]cu13(?:_bindings)?==(\S+)")
    (builds,) = pinned.findall((DOCKER / "steps" / "export").read_text())
    (runs,) = pinned.findall((DOCKER / "requirements-gpu.txt").read_text())
    assert builds == runs


# In place of NVIDIA's image: Triton from the wheel, at the same paths, and an empty onnxruntime.
NGC = """
FROM localhost/debian-here
COPY docker/steps/system /tmp/
RUN /tmp/system && apt-get update -qq && apt-get install -qq --no-install-recommends python3-pip
RUN userdel maisi \\
    && pip install --quiet --no-deps --break-system-packages nvidia-pytriton==0.7.0 \\
    && cp -r /usr/local/lib/python3.11/dist-packages/pytriton/tritonserver /opt/tritonserver \\
    && cp /opt/tritonserver/python_backend_stubs/3.11/triton_python_backend_stub \\
          /opt/tritonserver/backends/python/ \\
    && ln -s /usr/local/lib/python3.11/dist-packages/nvidia_pytriton.libs /nvidia_pytriton.libs \\
    && mkdir /opt/tritonserver/backends/onnxruntime \\
    && touch /opt/tritonserver/backends/onnxruntime/libtriton_onnxruntime.so
"""


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_gpu_image_is_built_and_answers(builder: Builder, tmp_path: Path) -> None:
    """Run every step, in a Debian that has the paths of NVIDIA's image but an older Python."""
    context = tmp_path / "context"
    tools.run("git", "clone", "--quiet", ROOT, context)
    (context / "Base").write_text(NGC)
    builder.build("ngc-here", context / "Base", context)
    lines = [*lock.HEAD.splitlines(), *lock.resolve(lock.DEBIAN, lock.packages("serve"))]
    (context / "docker" / "requirements-gpu.txt").write_text("\n".join(lines) + "\n")
    arguments = ("--build-arg=BASE=localhost/ngc-here", "--target=server")
    builder.build("maisi", context / "docker" / "Dockerfile", context, *arguments)
    entry = ["python3", "-m", "server", "--triton", "/opt/tritonserver"]
    answer(builder, "maisi", entry, tmp_path)


def answer(builder: Builder, image: str, entry: list[str], folder: Path) -> None:
    """Run the entry point as Kubernetes does, make a volume, and ask the image's own check."""
    root = builder.root(image)
    script = " && ".join(
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
            ["unshare", "--mount", "--propagation=private", "sh", "-c", script],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        line = process.stdout.readline()
        assert line.startswith("ready:"), (folder / "server.log").read_text()[-4000:]
        addresses = dict(word.split("=") for word in line.split()[1:])
        with maisi_client.Client(addresses["grpc"]) as client:
            volume = client.generate(
                ROOT / "examples" / "brain_mask.nii.gz", modality="mri_t1", seed=7, steps=5
            )
        assert volume.image.get_fdata().std() > 50
        kind, *check = builder.config(image)["Healthcheck"]["Test"]
        assert kind == "CMD" and ":8003/" in check[-1]
        check[-1] = check[-1].replace("127.0.0.1:8003/", f"{addresses['status']}/")
        tools.run("chroot", "--userspec=10001:10001", root, *check)
    finally:
        process.terminate()
        process.wait(PATIENCE)
    assert shutil.disk_usage("/dev/shm").used < 1 << 30
