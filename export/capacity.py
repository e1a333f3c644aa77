"""Whether this machine has the memory and the disk space that an export needs."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

import psutil
import torch

from export import networks
from export.graphs import NEEDS
from export.job import Job
from export.variant import Variant

# Bytes of memory per parameter of a graph that is exported and compared; measured, rounded up.
EXPORT_BYTES = 12


def check(job: Job, graph_names: Sequence[str]) -> None:
    """Raise ValueError when memory or disk do not suffice for the graphs `graph_names`."""
    count = {role: parameters(job.variant, role) for role in job.variant.networks}
    sizes = {name: sum(count[role] for role in NEEDS[name]) for name in graph_names}
    memory = 4 * sum(count.values()) + EXPORT_BYTES * max(sizes.values())
    copies = 1 if job.target == "onnx" else 1 + max(1, len(job.capabilities))
    disk = copies * sum(sizes.values()) * (4 if job.precision == "fp32" else 2)
    job.cache.mkdir(parents=True, exist_ok=True)
    free_disk = shutil.disk_usage(job.cache).free
    for resource, needed, free in (
        ("memory", memory, psutil.virtual_memory().available),
        (f"disk space in {job.cache}", disk, free_disk),
    ):
        if needed > free:
            raise ValueError(
                f"{resource}: building {job.variant.name} needs {needed / 1e9:.1f} GB "
                f"and {free / 1e9:.1f} GB are free"
            )


def parameters(variant: Variant, role: str) -> int:
    """Return the number of parameters of a network."""
    with torch.device("meta"):
        network = networks.build(variant, role)
    return sum(parameter.numel() for parameter in network.parameters())
