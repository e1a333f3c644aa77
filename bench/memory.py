"""Measure the memory of a server, idle and at the peak of a request: `scripts/bench memory`.

The measured memory is charged to the container, and the system cannot reclaim it: the private pages
of all processes, and shared memory. Mapped files, such as activations beyond the budget, are not
included. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from maisi_client import Client

from bench import ROOT, page, processes, servers
from bench.launcher import SHM, Server


def private(server: Server) -> int:
    """Return the bytes of private memory of a server's processes."""
    return sum(processes.private(process.pid) for process in processes.process_tree(server.pid))


def shared(server: Server) -> int:
    """Return the bytes that a server holds in shared memory."""
    return processes.allocated(SHM / name for name in server.shared_memory())


def measure(variant: str, repository: Path, sides: list[int]) -> list[dict[str, Any]]:
    """Return the peaks of private and shared memory in bytes, idle and for a volume of each side.

    The first row is of the idle server.
    """
    facts = servers.variant_in(repository, variant)
    label = next(int(label) for label in facts["labels"] if int(label))
    with tempfile.TemporaryDirectory() as folder:
        words = (repository, Path(folder, "log"), f"--models={variant}")
        with servers.keyed(*words) as (server, _), Client(server.grpc) as client:
            measures = partial(private, server), partial(shared, server)
            rows = [{"voxels": 0, "private": private(server), "shared": shared(server)}]
            for side in sides:
                mask = np.full([side] * 3, label, np.uint8)
                picture = {"mask": nib.Nifti1Image(mask, np.diag([1.5, 1.5, 1.5, 1]))}
                if not facts["masks"]:
                    picture = {"size": [side] * 3}
                with processes.peaks(*measures) as peaks:
                    client.generate(variant=variant, steps=2, guidance=1.0, seed=1, **picture)
                rows.append({"voxels": side**3, "private": peaks[0], "shared": peaks[1]})
    return rows


def main() -> None:
    """Print the table and a line of JSON."""
    parser = argparse.ArgumentParser(prog="scripts/bench memory", description=__doc__)
    parser.add_argument("--variant", default="mini", help="[%(default)s]")
    parser.add_argument(
        "--repository", type=Path, default=ROOT / "model_repository", help="model repository"
    )
    parser.add_argument(
        "--sides", type=int, nargs="+", default=[64, 128, 192], help="voxels per side of a volume"
    )
    parser.add_argument("--write", action="store_true", help="write docs/reference/benchmarks.md")
    options = parser.parse_args()
    rows = measure(options.variant, options.repository, options.sides)
    idle = rows[0]["shared"]
    cells = [
        [
            f"{round(row['voxels'] ** (1 / 3))}³" if row["voxels"] else "idle",
            f"{row['private'] / 1e9:.2f}",
            f"{row['shared'] / 1e6:.0f}",
            f"{(row['shared'] - idle) / row['voxels']:.1f}" if row["voxels"] else "",
        ]
        for row in rows
    ]
    head = (
        "volume",
        "private memory, GB",
        "shared memory, MB",
        "shared beyond idle, bytes per voxel",
    )
    table = page.table(head, cells)
    print(table)
    if options.write:
        note = "The peak memory of a server during a request to the stream, with a mask, guidance "
        note += "and two steps.\n\n"
        command = f"scripts/bench memory {' '.join(sys.argv[1:])}"
        page.write(f"Memory: {options.variant}", command, note + table)
    print(json.dumps({"variant": options.variant, "rows": rows}))


if __name__ == "__main__":
    main()
