"""The settings of one build, and the checks of a variant's size and checkpoint files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from export.files import sha256
from export.variant import Variant

# Takes one line about the progress of a build.
Log = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """One build: `variant` from the folder `checkpoints`, written to the folder `repository`.

    `capabilities`: compute capabilities such as "8.9" that engines are built for; none: that of the
    local GPU. `cache`: the folder of finished graphs and engines. `version`: Triton's version of
    all models of the variant; other versions in the repository are kept.
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

    Raises ValueError for a size outside the variant's limits or not a multiple of its step.
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


def checkpoint_digests(variant: Variant, folder: Path) -> dict[str, str]:
    """Return role -> sha256 of the checkpoint file below `folder`.

    Raises FileNotFoundError for a missing file.
    """
    paths = {role: folder / file for role, file in variant.checkpoints.items()}
    for path in paths.values():
        if not path.is_file():
            raise FileNotFoundError(f"checkpoint: {path} does not exist")
    return {role: sha256(path) for role, path in paths.items()}
