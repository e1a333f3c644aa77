"""The manifest of a build: `manifest.json` beside the ensemble of the variant."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from export import model_configs
from export.cache import graph_description, hash_of
from export.files import sha256
from export.job import Job

_TOOLS = ("torch", "monai", "onnx", "onnxscript", "onnxruntime")


def describe(
    job: Job,
    digests: Mapping[str, str],
    graph_folders: Mapping[str, Path],
    files: Mapping[str, list[Path]],
) -> dict[str, Any]:
    """Return the manifest: variant, target, checkpoints, tools, and the digest of every file.

    `digests`: role -> sha256 of the checkpoint; `graph_folders`: graph -> its folder in the cache;
    `files`: graph -> the files that go into the repository.
    """
    configs = model_configs.configs(job.variant, digests, job.target, job.precision)
    return {
        "variant": job.variant.name,
        "license": job.variant.license,
        "target": job.target,
        "precision": job.precision,
        "max_size": job.variant.serving["size"]["max"],
        "configuration": hash_of({name: str(config) for name, config in configs.items()}),
        "checkpoints": {
            role: {"file": file, "sha256": digests[role]}
            for role, file in job.variant.checkpoints.items()
        },
        "graphs": {
            name: {
                "relative_error": graph_description(graph_folders[name])["relative_error"],
                "files": {
                    path.name: {"sha256": sha256(path), "bytes": path.stat().st_size}
                    for path in paths
                },
            }
            for name, paths in files.items()
        },
        "tools": {tool: version(tool) for tool in _TOOLS},
    }


def is_current(job: Job, path: Path, manifest: Mapping[str, Any]) -> bool:
    """Return whether the manifest at `path` equals `manifest` and the repository has its files."""
    if not path.is_file() or json.loads(path.read_text()) != json.loads(json.dumps(manifest)):
        return False
    folders = {name: job.repository / f"{job.variant.name}.{name}" for name in manifest["graphs"]}
    return all(
        (folders[name] / str(job.version) / file).is_file()
        for name, graph in manifest["graphs"].items()
        for file in graph["files"]
    )
