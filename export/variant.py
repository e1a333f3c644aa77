"""A variant: its networks, its checkpoint files, and the requests that its server accepts."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from export import mask_generation

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

VARIANTS = Path(__file__).parent / "variants"
VOCABULARIES = Path(__file__).parent / "vocabularies.toml"
REQUIRED = ("autoencoder", "diffusion_unet")
OPTIONAL = ("controlnet", "mask_autoencoder", "mask_diffusion")
ROLES = REQUIRED + OPTIONAL
# Tables that a server checks requests against and publishes; those of the second list are optional.
SERVING = (
    "modalities",
    "labels",
    "lesions",
    "size",
    "spacing",
    "latent",
    "schedule",
    "solvers",
    "limits",
    "defaults",
    "intensity",
    "presets",
)
SERVING_OPTIONAL = (
    "lesion_neighbours",
    "regions",
    "reference",
    "mask_generation",
    "anatomy_sizes",
)
TYPES = ("FP32", "FP16", "INT64", "UINT8")
PRECISIONS = ("fp32", "fp16")


@dataclass(frozen=True)
class Variant:
    """One `variants/*.toml`, or a user's own file.

    `networks`: role -> keyword arguments of its MONAI class; `checkpoints`: role -> file relative
    to the checkpoint folder, the same roles; `tensors`: input or output of a graph -> its type in
    float16 builds; `serving`: the tables that a server checks requests against; `hub`: role ->
    `repo`, `file`, `revision` and optionally `sha256` on Hugging Face.
    """

    name: str
    license: str
    networks: dict[str, dict[str, Any]]
    checkpoints: dict[str, str]
    tensors: dict[str, str]
    serving: dict[str, Any]
    license_url: str = ""
    hub: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def multiple(self) -> int:
        """The step of the latent's x, y and z: a factor of 2 per UNet level except the last."""
        return int(2 ** (len(self.networks["diffusion_unet"]["num_channels"]) - 1))

    def parameter(self, digests: dict[str, str]) -> dict[str, Any]:
        """Return the parameter `variant` that every model of the variant publishes.

        `digests`: role -> sha256 of the checkpoint file.
        """
        optional = [key for key in SERVING_OPTIONAL if key in self.serving]
        return {
            "name": self.name,
            "license": self.license,
            **{key: self.serving[key] for key in (*SERVING, *optional)},
            **({"vocabularies": self.vocabularies()} if "vocabularies" in self.serving else {}),
            # The decoder's largest activation is between its last upsampling and the next block.
            "bytes_per_voxel": 4 * self.networks["autoencoder"]["num_channels"][1],
            "weights": digests,
        }

    def vocabularies(self) -> dict[str, list[int]]:
        """Return the label vocabularies of its masks: name -> list of MAISI's ids.

        Element i is MAISI's id of the vocabulary's id i, or 0 if the vocabulary has no id i. A list
        keeps a model's configuration small.
        """
        tables, vocabularies = _read(VOCABULARIES), {}
        for name in self.serving["vocabularies"]:
            ids = {int(label): maisi_id for label, maisi_id in tables[name].items()}
            vocabularies[name] = [ids.get(label, 0) for label in range(max(ids) + 1)]
        return vocabularies

    def tensor_type(self, name: str, precision: str) -> str:
        """Return FP32, FP16, INT64 or UINT8: the type of tensor `name` in a build of `precision`.

        Raises ValueError for an unknown tensor or precision.
        """
        if precision not in PRECISIONS:
            raise ValueError(f"precision: {precision!r} is not one of {', '.join(PRECISIONS)}")
        if name not in self.tensors:
            raise ValueError(f"{self.name}: {name!r} is not one of its tensors")
        kind = self.tensors[name]
        return "FP32" if kind == "FP16" and precision == "fp32" else kind


def names(folder: Path = VARIANTS) -> list[str]:
    """Return the names of the variants in `folder`."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def load(name_or_path: str | Path, folder: Path = VARIANTS) -> Variant:
    """Read and check a variant of `folder` by its name, or a `.toml` file by its path.

    `base = "rflow-ct"` in a file means: all values of that variant, overridden, table by table, by
    those of the file. Raises ValueError if there is no such variant or file, or if its tables are
    incomplete or inconsistent.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        if name_or_path not in names(folder):
            listed = ", ".join(names(folder))
            raise ValueError(
                f"variant: {os.fspath(name_or_path)!r} is not one of {listed}, nor a .toml file"
            )
        path = folder / f"{name_or_path}.toml"
    table = _read(path)
    if "base" in table:
        table = _on_base(table, path, folder)
    try:
        variant = Variant(**table)
        _check(variant, path.name)
    except KeyError as error:
        raise ValueError(f"{path.name}: {error.args[0]!r} is missing") from error
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{path.name}: {error}, so a table is missing or misplaced") from error
    return variant


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            table: dict[str, Any] = tomllib.load(file)
    except OSError as error:
        raise ValueError(f"variant: {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"variant: {path} is not TOML: {error}") from error
    return table


def _on_base(table: dict[str, Any], path: Path, folder: Path) -> dict[str, Any]:
    base = table.pop("base")
    if base not in names(folder):
        raise ValueError(f"{path.name}: base {base!r} is not one of {', '.join(names(folder))}")
    if "name" not in table:
        raise ValueError(f"{path.name}: 'name' is missing; it has to differ from {base}")
    merged = _merge(_read(folder / f"{base}.toml"), table)
    for role in set(table.get("checkpoints", {})) - set(table.get("hub", {})):
        merged.get("hub", {}).pop(role, None)  # a user's own checkpoint is not the file on the hub
    return merged


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = base.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def _check(variant: Variant, file_name: str) -> None:
    """Raise ValueError for a contradiction, KeyError for a missing key."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", variant.name):
        raise ValueError(
            f"{file_name}: name {variant.name!r} may hold letters, digits, - and _ only"
        )
    for table in ("networks", "checkpoints"):
        for role in REQUIRED:
            getattr(variant, table)[role]
        if unknown := set(getattr(variant, table)) - set(ROLES):
            raise ValueError(
                f"{file_name}: {table} has {sorted(unknown)}, not one of {list(ROLES)}"
            )
    if set(variant.networks) != set(variant.checkpoints):
        raise ValueError(f"{file_name}: networks and checkpoints do not have the same roles")
    if ("mask_autoencoder" in variant.networks) != ("mask_diffusion" in variant.networks):
        raise ValueError(f"{file_name}: mask_autoencoder and mask_diffusion need each other")
    if wrong := set(variant.tensors.values()) - set(TYPES):
        raise ValueError(
            f"{file_name}: tensors has {sorted(wrong)}, and types are {', '.join(TYPES)}"
        )
    for role, entry in variant.hub.items():
        variant.checkpoints[role], entry["repo"], entry["file"], entry["revision"]
    for key in SERVING:
        variant.serving[key]
    waiting = variant.serving["limits"]["waiting"][1]
    if type(waiting) is not int or waiting < 1:  # for Triton a queue of 0 is unlimited
        raise ValueError(
            f"{file_name}: limits.waiting is up to {waiting}, but 1 or more is expected"
        )
    _check_labels(variant, file_name)
    _check_sizes(variant, file_name)
    if "mask_diffusion" in variant.networks:
        mask_generation.check(variant.networks, variant.serving, file_name)


def _check_labels(variant: Variant, file_name: str) -> None:
    serving = variant.serving
    labels = {int(label) for label in serving["labels"]}
    neighbours = serving.get("lesion_neighbours", {})
    lesions = {int(label) for label in (*serving["lesions"], *neighbours)}
    lesions |= set(serving["lesions"].values()).union(*neighbours.values())
    if not all(0 <= label <= 255 for label in labels) or not lesions <= labels or 0 not in labels:
        raise ValueError(
            f"{file_name}: labels must lie in 0..255 and hold 0 and every id of `lesions`"
        )
    if "vocabularies" in serving:
        tables = _read(VOCABULARIES)
        if unknown := [name for name in serving["vocabularies"] if name not in tables]:
            raise ValueError(f"{file_name}: {unknown[0]!r} is not one of vocabularies.toml")
    if "regions" in serving:
        regions = serving["regions"]
        if not {regions["top"], regions["bottom"], *regions["labels"]} <= set(regions["names"]):
            raise ValueError(
                f"{file_name}: regions.top, bottom and labels must be in regions.names"
            )
        if set(regions["labels"]) != set(regions["names"]):
            raise ValueError(f"{file_name}: each of regions.names needs its regions.labels")


def _check_sizes(variant: Variant, file_name: str) -> None:
    serving = variant.serving
    size, spacing = serving["size"], serving["spacing"]
    step = variant.multiple * serving["latent"]["factor"]
    if size["multiple"] % step:
        raise ValueError(f"{file_name}: size.multiple must be a multiple of {step}")
    if serving["defaults"]["solver"] not in serving["solvers"]:
        raise ValueError(
            f"{file_name}: {serving['defaults']['solver']!r} is not one of its solvers"
        )
    for name, preset in {"defaults": serving["defaults"], **serving["presets"]}.items():
        if preset["modality"] not in serving["modalities"]:
            raise ValueError(
                f"{file_name}: {name}: {preset['modality']!r} is not one of its modalities"
            )
        if not isinstance(preset.get("caveat", ""), str):
            raise ValueError(f"{file_name}: {name}: caveat {preset['caveat']!r} is not a sentence")
        x, y, z = preset["size"]
        if not _within(preset["size"], size) or x * y * z > size["max_voxels"]:
            raise ValueError(
                f"{file_name}: {name}: size {preset['size']} is outside `serving.size`"
            )
        if not _within(preset["spacing"], spacing):
            raise ValueError(
                f"{file_name}: {name}: spacing {preset['spacing']} is outside `serving.spacing`"
            )


def _within(sides: list[float], bounds: dict[str, Any]) -> bool:
    limits = zip(bounds["min"], sides, bounds["max"], strict=True)
    return all(low <= side <= high for low, side, high in limits)
