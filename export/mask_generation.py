"""The checks of a variant's mask networks and of its table `serving.mask_generation`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

CLEANUPS = ("body", "head")  # backends/maisi/mask_cleanup.py and head_cleanup.py
# The keys of a schedule that backends/maisi/schedule.py reads, by its kind.
SCHEDULES = {
    "ddpm": ("train_timesteps", "beta_start", "beta_end"),
    "rflow": ("train_timesteps", "base_numel"),
}
SIZE_KEYS = ("name", "default", "label", "tumour", "labels", "volume", "within", "meaning")

Table = Mapping[str, Any]


def check(networks: Mapping[str, Table], serving: Table, file_name: str) -> None:
    """Raise ValueError where the tables contradict each other, KeyError for a missing key.

    `networks` and `serving` are those of a variant with mask networks. An entry of
    `mask_generation.sizes` has a `name` and a `default`, 0..1 or -1 for absent; that of a lesion
    has its `label` in the mask. A request may have at most one of the entries with `tumour`. For
    the cleanup `head`, a lesion, or an organ with its `labels`, may have `volume`, the ml of the
    sizes 0 and 1, and `within`, the labels into which it may grow to that volume. `meaning` is an
    optional description.
    """
    table = serving["mask_generation"]
    _check_networks(networks, serving, file_name)
    width = networks["mask_diffusion"]["cross_attention_dim"]
    if len(table["sizes"]) != width:
        raise ValueError(
            f"{file_name}: mask_generation.sizes has {len(table['sizes'])} entries, "
            f"but mask_diffusion takes {width}"
        )
    if any(len(row) != width for row in serving.get("anatomy_sizes", [])):
        raise ValueError(f"{file_name}: every row of anatomy_sizes must have {width} sizes")
    _check_entries(table["sizes"], serving["mask_labels"], file_name)
    kind = table["schedule"]["kind"]
    if kind not in SCHEDULES:
        raise ValueError(
            f"{file_name}: mask_generation.schedule: {kind!r} is not one of {', '.join(SCHEDULES)}"
        )
    for key in SCHEDULES[kind]:
        table["schedule"][key]
    _check_cleanup(serving, file_name)


def _check_networks(networks: Mapping[str, Table], serving: Table, file_name: str) -> None:
    classes, ids = networks["mask_autoencoder"]["out_channels"], serving["mask_labels"]
    if len(ids) != classes or not set(ids) <= {int(label) for label in serving["labels"]}:
        raise ValueError(f"{file_name}: mask_labels must be {classes} ids out of `labels`")
    latent, autoencoder = serving["latent"], networks["mask_autoencoder"]
    factor = 2 ** (len(autoencoder["num_channels"]) - 1)
    if (autoencoder["latent_channels"], factor) != (latent["channels"], latent["factor"]):
        raise ValueError(
            f"{file_name}: mask_autoencoder has {autoencoder['latent_channels']} latent channels "
            f"and a factor of {factor}, but `serving.latent` has {latent['channels']} and "
            f"{latent['factor']}"
        )
    levels = max(
        len(networks["diffusion_unet"]["num_channels"]),
        len(networks["mask_diffusion"]["channels"]),
    )
    multiple, size = factor * 2 ** (levels - 1), serving["mask_generation"]["size"]
    if any(side % multiple for side in size):
        raise ValueError(
            f"{file_name}: mask_generation.size is {size}, but multiples of {multiple} are expected"
        )


def _check_entries(entries: Sequence[Table], mask_labels: Sequence[int], file_name: str) -> None:
    names = []
    for entry in entries:
        name, default = entry["name"], entry["default"]
        prefix = f"{file_name}: mask_generation.sizes: {name!r}"
        if name in names:
            raise ValueError(f"{prefix} is given twice")
        if not name.strip() or set(name) & set(",="):  # a request has name=size, name=size
            raise ValueError(f"{prefix} may hold neither a comma nor =, and must not be empty")
        if unknown := sorted(set(entry) - set(SIZE_KEYS)):
            raise ValueError(f"{prefix} has {unknown[0]!r}, not one of {', '.join(SIZE_KEYS)}")
        if not (0 <= default <= 1 or default == -1):
            raise ValueError(
                f"{prefix} has the default {default}, but 0 to 1 is expected, or -1 for absent"
            )
        if "label" in entry and entry["label"] not in mask_labels:
            raise ValueError(f"{prefix} has the label {entry['label']}, not one of mask_labels")
        if entry.get("tumour") and "label" not in entry:
            raise ValueError(f"{prefix} is a tumour, but has no label")
        if entry.keys() & {"labels", "volume", "within"} and not (
            entry.keys() >= {"volume", "within"} and ("label" in entry) != ("labels" in entry)
        ):
            raise ValueError(f"{prefix} needs volume, within, and either label or labels")
        if "volume" in entry and not 0 < entry["volume"][0] < entry["volume"][1]:
            raise ValueError(
                f"{prefix} has the volumes {entry['volume']}; two increasing are expected"
            )
        for key in ("labels", "within"):
            if not set(entry.get(key, ())) <= set(mask_labels):
                raise ValueError(f"{prefix}: {key} must be ids out of mask_labels")
        names.append(name)


def _check_cleanup(serving: Table, file_name: str) -> None:
    table = serving["mask_generation"]
    if table["cleanup"] not in CLEANUPS:
        raise ValueError(
            f"{file_name}: mask_generation.cleanup: {table['cleanup']!r} is not one of "
            f"{', '.join(CLEANUPS)}"
        )
    if table["cleanup"] != "head":
        return
    if not set(table["scattered"]) <= {int(label) for label in serving["labels"]}:
        raise ValueError(f"{file_name}: mask_generation.scattered must be ids out of `labels`")
    replaced = {
        int(label) for label in (*serving["lesions"], *serving.get("lesion_neighbours", {}))
    }
    for entry in table["sizes"]:
        if "label" in entry and entry["label"] not in replaced:
            raise ValueError(
                f"{file_name}: mask_generation.sizes: {entry['name']!r} has the label "
                f"{entry['label']}, whose organ is not in `lesions`"
            )
