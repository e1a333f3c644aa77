"""A variant: which networks, which checkpoint files, and what its server accepts."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

VARIANTS = Path(__file__).parent / "variants"
ROLES = ("autoencoder", "diffusion_unet", "controlnet")
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


@dataclass(frozen=True)
class Variant:
    """One `variants/*.toml`.

    `networks`: role -> keyword arguments of its MONAI class; `checkpoints`: role -> file relative
    to the checkpoint folder; `serving`: the tables a server checks requests against.
    """

    name: str
    license: str
    networks: dict[str, dict[str, Any]]
    checkpoints: dict[str, str]
    serving: dict[str, Any]

    @property
    def multiple(self) -> int:
        """What the latent's x, y and z are multiples of: one halving a UNet level but the last."""
        return int(2 ** (len(self.networks["diffusion_unet"]["num_channels"]) - 1))

    def parameter(self, digests: dict[str, str]) -> dict[str, Any]:
        """Return what every model of the variant publishes as its parameter `variant`.

        `digests`: role -> sha256 of the checkpoint file.
        """
        return {
            "name": self.name,
            "license": self.license,
            **{key: self.serving[key] for key in SERVING},
            "weights": digests,
        }


def names(folder: Path = VARIANTS) -> list[str]:
    """Return the variants there are."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def load(name: str, folder: Path = VARIANTS) -> Variant:
    """Read and check one variant.

    Raises ValueError when there is no such variant or its file contradicts itself.
    """
    if name not in names(folder):
        raise ValueError(f"variant: {name!r} is not one of {', '.join(names(folder))}")
    with (folder / f"{name}.toml").open("rb") as file:
        table = tomllib.load(file)
    try:
        variant = Variant(**table)
        _check(variant)
    except (KeyError, TypeError) as error:
        raise ValueError(f"variants/{name}.toml: {error} is missing or misplaced") from error
    return variant


def _check(variant: Variant) -> None:
    serving, where = variant.serving, f"variants/{variant.name}.toml"
    for role in ROLES:
        variant.networks[role], variant.checkpoints[role]
    for key in SERVING:
        serving[key]
    labels = {int(label) for label in serving["labels"]}
    lesions = {int(a) for a in serving["lesions"]} | set(serving["lesions"].values())
    if not all(0 <= label <= 255 for label in labels) or not lesions <= labels or 0 not in labels:
        raise ValueError(f"{where}: labels must lie in 0..255, hold 0 and every id of `lesions`")
    for preset in (serving["defaults"], *serving["presets"].values()):
        if preset["modality"] not in serving["modalities"]:
            raise ValueError(f"{where}: {preset['modality']!r} is not one of its modalities")
    step = variant.multiple * serving["latent"]["factor"]
    if serving["size"]["multiple"] % step:
        raise ValueError(f"{where}: size.multiple must be a multiple of {step}")
