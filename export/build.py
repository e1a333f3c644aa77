"""Checkpoint -> ONNX -> engine -> model repository; finished graphs and engines are cached."""

from __future__ import annotations

import json
import os
from typing import Any

from export import cache, manifest, repository, tensorrt_plans
from export.job import Job, Log, checkpoint_digests


def build(job: Job, log: Log = print) -> dict[str, Any]:
    """Build what `job` names into its repository and return the manifest that is written there.

    If the repository is up to date, nothing is written. Builds that share a cache run one at a
    time. Raises ValueError or FileNotFoundError; the repository is then unchanged.
    """
    with cache.locked(job.cache):
        return _build(job, log)


def _build(job: Job, log: Log) -> dict[str, Any]:
    builder = None
    if job.target != "onnx":
        builder = tensorrt_plans.ready(job.target, job.capabilities)
    digests = checkpoint_digests(job.variant, job.checkpoints)
    graph_folders = file_folders = cache.export_graphs(job, digests, log)
    if builder is not None:
        file_folders = cache.build_engines(job, graph_folders, builder, log)
    files = {
        name: sorted(path for path in folder.iterdir() if path.name != "graph.json")
        for name, folder in file_folders.items()
    }
    content = manifest.describe(job, digests, graph_folders, files)
    content |= {} if builder is None else {"engine": builder}
    path = job.repository / job.variant.name / str(job.version) / "manifest.json"
    if manifest.is_current(job, path, content):
        log(f"{job.variant.name}: up to date in {job.repository}")
        return content
    repository.write(
        job.repository, job.variant, digests, files, job.target, job.precision, job.version
    )
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(part, path)
    log(f"{job.variant.name}: written to {job.repository}")
    return content
