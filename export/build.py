"""Checkpoint -> ONNX -> engine -> model repository; what is finished is kept and found again.

A graph is kept in the cache under a key made of its weights' digests, its networks, the precision
and this exporter; an engine under that of its graph, the target and the sizes it was built for.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from export import engines, graphs, networks, onnx_export, repository, stages
from export.files import sha256
from export.graphs import Graph
from export.variant import Variant

TARGETS = ("onnx", "tensorrt", "tensorrt-rtx")
# The networks whose weights are in a graph; the UNets' files hold the scale of the latents.
NEEDS = {
    "mask_encoder": ("controlnet",),
    "flow": ("diffusion_unet",),
    "flow_masked": ("diffusion_unet", "controlnet"),
    "vae_decoder": ("autoencoder", "diffusion_unet"),
    "vae_encoder": ("autoencoder", "diffusion_unet"),
    "mask_flow": ("mask_diffusion",),
    "mask_decoder": ("mask_autoencoder", "mask_diffusion"),
}
# Bytes of memory a parameter takes while its graph is exported and compared; measured, rounded up.
EXPORT_BYTES = 12
_SOURCES = ("networks.py", "graphs.py", "chains.py", "stages.py", "half.py", "onnx_export.py")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """What to build, from where, to where.

    `capabilities`: compute capabilities such as "8.9" that engines are built for; none: the device
    at hand. `cache`: the folder where finished graphs and engines are kept. `version` is Triton's,
    of all models of the variant: others that are in the repository stay.
    """

    variant: Variant
    checkpoints: Path
    repository: Path
    cache: Path
    target: str = "onnx"
    precision: str = "fp32"
    capabilities: tuple[str, ...] = ()
    version: int = 1


def limit(variant: Variant, size: tuple[int, int, int]) -> Variant:
    """Return `variant` for volumes of at most `size` [X, Y, Z] voxels.

    Raises ValueError for a size that the variant cannot have.
    """
    table = variant.serving["size"]
    inside = all(a <= n <= b for a, n, b in zip(table["min"], size, table["max"], strict=True))
    if not inside or any(n % table["multiple"] for n in size):
        raise ValueError(
            f"max-size: {','.join(map(str, size))} must be multiples of {table['multiple']} "
            f"from {table['min']} to {table['max']}"
        )
    voxels = min(table["max_voxels"], size[0] * size[1] * size[2])
    limited = {**table, "max": list(size), "max_voxels": voxels}
    return dataclasses.replace(variant, serving={**variant.serving, "size": limited})


def build(job: Job, say: Say = print) -> dict[str, Any]:
    """Build what `job` says into its repository and return the manifest written there.

    A repository that has just that already is left alone. Builds with one cache wait for each
    other. Raises ValueError or FileNotFoundError with one sentence; the repository is untouched
    then.
    """
    job.cache.mkdir(parents=True, exist_ok=True)
    with (job.cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # lifted by the kernel, however this ends
        return _build(job, say)


def _build(job: Job, say: Say) -> dict[str, Any]:
    made_by = "" if job.target == "onnx" else engines.ready(job.target, job.capabilities)
    digests = digest(job.variant, job.checkpoints)
    found = export(job, digests, say)
    homes = compile_engines(job, found, made_by, say) if made_by else found
    files = {
        name: sorted(path for path in home.iterdir() if path.name != "graph.json")
        for name, home in homes.items()
    }
    manifest = describe(job, digests, found, files) | ({"engine": made_by} if made_by else {})
    path = job.repository / job.variant.name / str(job.version) / "manifest.json"
    if _has(job, path, manifest):
        say(f"{job.variant.name}: {job.repository} has it already")
        return manifest
    where, how = (job.repository, job.variant, digests), (job.target, job.precision, job.version)
    repository.write(*where, files, *how)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(manifest, indent=1) + "\n")
    os.replace(part, path)
    say(f"{job.variant.name}: written to {job.repository}")
    return manifest


def digest(variant: Variant, folder: Path) -> dict[str, str]:
    """Return role -> sha256 of the checkpoint file below `folder`.

    Raises FileNotFoundError for one that is not there.
    """
    paths = {role: folder / file for role, file in variant.checkpoints.items()}
    for path in paths.values():
        if not path.is_file():
            raise FileNotFoundError(f"checkpoint: {path} does not exist")
    return {role: sha256(path) for role, path in paths.items()}


def export(job: Job, digests: Mapping[str, str], say: Say = print) -> dict[str, Path]:
    """Return graph -> folder in the cache with `model.onnx` and `graph.json`, all compared."""
    names = [name for name, roles in NEEDS.items() if set(roles) <= set(job.variant.networks)]
    folders = {name: job.cache / key(job.variant, name, digests, job.precision) for name in names}
    missing = [name for name in names if not folders[name].is_dir()]
    for name in names:
        if name not in missing:
            say(f"{job.variant.name}.{name}: kept from an earlier build")
    if not missing:
        return folders
    room(job, missing)
    made = graphs.graphs(job.variant, networks.load(job.variant, job.checkpoints))
    for graph in made:
        if graph.name in missing:
            with _kept(folders[graph.name]) as folder:
                _export(job, graph, folder, say)
    return folders


def _export(job: Job, graph: Graph, folder: Path, say: Say) -> None:
    started = time.monotonic()
    path = onnx_export.write(graph, folder, job.precision)
    error = onnx_export.verify(graph, path, onnx_export.TOLERANCE[job.precision])
    size, took = _size(folder), time.monotonic() - started
    about = {
        "relative_error": error,
        "inputs": graph.inputs,
        "outputs": graph.outputs,
        "stages": _stages(graph),
    }
    (folder / "graph.json").write_text(json.dumps(about))
    say(
        f"{job.variant.name}.{graph.name}: {size / 1e6:.1f} MB in {took:.0f} s, "
        f"relative error {error:.1e}"
    )


def _stages(graph: Graph) -> dict[str, Any]:
    """Return stem -> shapes of the inputs of every stage that the graph is written as, if it is."""
    if (chain := graph.chain) is None:
        return {}
    return {f"{number:02}": stages.shapes(chain, x)[0] for number, x in enumerate(chain.stages)}


def _profiles(
    job: Job, name: str, folder: Path
) -> tuple[dict[str, engines.Profile], dict[str, Any] | None]:
    """Return stem -> the shapes that its engine is for, and the description of a chain.

    `folder` is the graph's. The description is None where the graph is no chain; it has `thickest`,
    the most latent planes that its engines are for.
    """
    about = _about(folder)
    if about["stages"]:
        described = json.loads((folder / "chain.json").read_bytes())
        sizes = engines.stage_sizes(job.variant, described, about["inputs"])
        profiles = {stem: engines.profile(x, sizes) for stem, x in about["stages"].items()}
        return profiles, {**described, "thickest": sizes[-1]["t"]}
    shapes = Graph(name, nn.Identity(), about["inputs"], about["outputs"], {})
    return {"model": engines.profile(shapes.inputs, engines.sizes(job.variant, shapes))}, None


def compile_engines(job: Job, found: Mapping[str, Path], made_by: Any, say: Say) -> dict[str, Path]:
    """Return graph -> folder in the cache with its engine, `model.plan`, and its description.

    A chain has one for each stage, and `chain.json`. `made_by`: what `engines.ready` says.
    """
    folders = {}
    described_by = [field.name for field in dataclasses.fields(engines.Engine)]
    for name, folder in found.items():
        profiles, chain = _profiles(job, name, folder)
        home_key = _hash([folder.name, job.target, made_by, profiles, described_by])
        folders[name] = home = job.cache / home_key
        if home.is_dir():
            say(f"{job.variant.name}.{name}: engine kept from an earlier build")
            continue
        with _kept(home) as new:
            started = time.monotonic()
            for stem, profile in profiles.items():
                _compile(job, name, folder / f"{stem}.onnx", new / f"{stem}.plan", profile, say)
            if chain is not None:
                (new / "chain.json").write_text(json.dumps(chain, indent=1) + "\n")
            took = time.monotonic() - started
            say(f"{job.variant.name}.{name}: engine of {_size(new) / 1e6:.1f} MB in {took:.0f} s")
    return folders


def _compile(
    job: Job, name: str, path: Path, plan: Path, profile: engines.Profile, say: Say
) -> None:
    timing, of = job.cache / f"{job.target}.timing", f"{job.variant.name}.{name}"
    try:
        engine = engines.build(path, plan, job.target, profile, job.capabilities, timing)
    except ValueError as error:
        raise ValueError(f"{of}: {error}") from error
    say(f"{of}: {plan.name} of {memory(plan.stat().st_size, engine.activation_bytes)}")


def memory(plan: int, activations: int | None) -> str:
    """Say what a plan takes: its own bytes, and those of activations at its largest shapes."""
    most = "an unknown size" if activations is None else f"{activations / 1e9:.2f} GB"
    return f"{plan / 1e6:.1f} MB, its activations at most {most}"


@contextmanager
def _kept(home: Path) -> Iterator[Path]:
    """Give a folder to fill that becomes `home` when that went well, and never half."""
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=".part-") as part:
        folder = Path(part) / "whole"
        folder.mkdir()
        yield folder
        os.replace(folder, home)


def key(variant: Variant, name: str, digests: Mapping[str, str], precision: str) -> str:
    """Return what tells graph `name` from every other: weights, networks, precision, exporter."""
    roles = NEEDS[name]
    sources = [(Path(__file__).parent / file).read_text() for file in _SOURCES]
    tools = [version(package) for package in ("torch", "monai", "onnx", "onnxscript")]
    networks_of = {role: variant.networks[role] for role in roles}
    labels = variant.serving.get("mask_labels") if name == "mask_decoder" else None
    weights = [digests[role] for role in roles]
    return _hash([name, precision, weights, networks_of, variant.tensors, labels, sources, tools])


def _hash(words: Any) -> str:
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:32]


def room(job: Job, missing: list[str]) -> None:
    """Raise ValueError when memory or disk will not do for the graphs that are missing."""
    count = {role: parameters(job.variant, role) for role in job.variant.networks}
    sizes = {name: sum(count[role] for role in NEEDS[name]) for name in missing}
    memory = 4 * sum(count.values()) + EXPORT_BYTES * max(sizes.values())
    copies = 1 if job.target == "onnx" else 1 + max(1, len(job.capabilities))
    disk = copies * sum(sizes.values()) * (4 if job.precision == "fp32" else 2)
    job.cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(job.cache).free
    for what, need, have in (
        ("memory", memory, psutil.virtual_memory().available),
        (f"disk space in {job.cache}", disk, free),
    ):
        if need > have:
            raise ValueError(
                f"{what}: building {job.variant.name} needs {need / 1e9:.1f} GB "
                f"and {have / 1e9:.1f} GB are free"
            )


def parameters(variant: Variant, role: str) -> int:
    """Return how many parameters a network has."""
    with torch.device("meta"):
        network = networks.build(variant, role)
    return sum(parameter.numel() for parameter in network.parameters())


def describe(
    job: Job,
    digests: Mapping[str, str],
    found: Mapping[str, Path],
    files: Mapping[str, list[Path]],
) -> dict[str, Any]:
    """Return the manifest: what was built, of what, by what, and the digest of every file."""
    tools = ["torch", "monai", "onnx", "onnxscript", "onnxruntime"]
    return {
        "variant": job.variant.name,
        "license": job.variant.license,
        "target": job.target,
        "precision": job.precision,
        "max_size": job.variant.serving["size"]["max"],
        "configuration": _hash(
            {
                name: str(config)
                for name, config in repository.configs(
                    job.variant, digests, job.target, job.precision
                ).items()
            }
        ),
        "checkpoints": {
            role: {"file": file, "sha256": digests[role]}
            for role, file in job.variant.checkpoints.items()
        },
        "graphs": {
            name: {
                "relative_error": _about(found[name])["relative_error"],
                "files": {
                    path.name: {"sha256": sha256(path), "bytes": path.stat().st_size}
                    for path in paths
                },
            }
            for name, paths in files.items()
        },
        "tools": {tool: version(tool) for tool in tools},
    }


def _has(job: Job, path: Path, manifest: Mapping[str, Any]) -> bool:
    """Tell whether the repository holds `manifest`, and it is what `path` says."""
    if not path.is_file() or json.loads(path.read_text()) != json.loads(json.dumps(manifest)):
        return False
    home = {name: job.repository / f"{job.variant.name}.{name}" for name in manifest["graphs"]}
    return all(
        (home[name] / str(job.version) / file).is_file()
        for name, graph in manifest["graphs"].items()
        for file in graph["files"]
    )


def _about(folder: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((folder / "graph.json").read_text())
    return about


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
