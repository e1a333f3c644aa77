"""The model variants of a server."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ._errors import InvalidRequest, ServerError, ServerUnavailable, printable
from ._validation import check_form, excerpt, read_json


@dataclass(frozen=True)
class Variant:
    """One model variant, as its server publishes it; every length is in mm, every size in voxels.

    - `modalities` maps names to class codes, and `labels` maps the ids of masks to their names.
    - `masks` is true if the variant takes masks.
    - `regions` are the body regions that condition the variant, from top to bottom; most variants
      have none.
    - `size` has `min`, `max`, `multiple` and `max_voxels`; `spacing` has `min` and `max`.
    - `limits` bound `steps` and `guidance`; `defaults` are the values of omitted arguments.
    - `presets` are named combinations of arguments that the variant was trained for. A preset has
      a `caveat` if its images without a mask are known to be bad.
    - `anatomy` maps the names of the sizes of a generated mask to a `default`, 0 to 1 or -1 for
      absent, and in some variants a `meaning`. A lesion also has a `label`. A request may have at
      most one of the sizes with `tumour`.
    - `weights` are SHA-256 digests.
    """

    name: str
    license: str = ""
    modalities: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[int, str] = field(default_factory=dict)
    masks: bool = True
    regions: tuple[str, ...] = ()
    size: Mapping[str, Any] = field(default_factory=dict)
    spacing: Mapping[str, Any] = field(default_factory=dict)
    solvers: tuple[str, ...] = ()
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    anatomy: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)


class Capacity(NamedTuple):
    """The requests that a server's stream processes at a time, and that may also wait."""

    working: int = 1
    waiting: int = 1


_THREE = [(int, float)] * 3
_LONGEST = 32767  # voxels of a side in NIfTI-1
_MOST_DEVICES = 1000
_FORM = {  # of the JSON, as far as the client reads it
    "name": str,
    "license?": str,
    "modalities": {str: int},
    "labels?": {str: str},
    "conditions?": [str],
    "regions?": {"names?": [str]},
    "size": {"min": [int] * 3, "max": [int] * 3, "multiple": int, "max_voxels": int},
    "spacing": {"min": _THREE, "max": _THREE},
    "solvers?": [str],
    "limits?": {str: [(int, float)] * 2},
    "defaults": {"modality": str},
    "presets?": {
        str: {
            "modality": str,
            "size": [int] * 3,
            "spacing": _THREE,
            "scans?": int,
            "share?": (int, float),
            "caveat?": str,
        }
    },
    "mask_generation?": {
        "sizes?": [
            {
                "name": str,
                "default": (int, float),
                "label?": int,
                "tumour?": bool,
                "meaning?": str,
            }
        ]
    },
    "weights?": {str: str},
}


def parse_variant(text: str) -> Variant:
    """Read the JSON that a model configuration holds as its parameter `variant`.

    Raises `ServerError` if it is not JSON of the form that the client reads.
    """
    try:
        data = read_json(text)
        check_form("the server's variant", data, _FORM)
        labels = {int(id_): name for id_, name in data.get("labels", {}).items()}
    except ValueError as error:
        raise ServerError(f"the server's variant cannot be read: {error}") from None
    if not all(0 <= id_ <= 255 for id_ in labels):
        raise ServerError(
            f"the server's variant has labels {excerpt(list(labels))};"
            " ids from 0 to 255 are expected"
        )
    size, spacing = data["size"], data["spacing"]
    sides = [*size["min"], *size["max"], size["multiple"]]
    if not (all(1 <= side <= _LONGEST for side in sides) and size["max_voxels"] >= 1):
        raise ServerError(
            f"the server's variant has size {size}; sides of 1 to {_LONGEST} voxels are expected"
        )
    if min(*spacing["min"], *spacing["max"]) <= 0:
        raise ServerError(f"the server's variant has spacing {spacing}; more than 0 mm is expected")
    fields = {key: data[key] for key in Variant.__dataclass_fields__ if key in data}
    fields["labels"] = labels
    fields["masks"] = "labels" in data.get("conditions", ("labels",))
    fields["regions"] = tuple(data.get("regions", {}).get("names", ()))
    fields["solvers"] = tuple(data.get("solvers", ()))
    fields["limits"] = {key: (low, high) for key, (low, high) in data.get("limits", {}).items()}
    sizes = data.get("mask_generation", {}).get("sizes", ())
    fields["anatomy"] = {
        size["name"]: {key: size[key] for key in size if key != "name"} for size in sizes
    }
    return Variant(**fields)


def parse_capacity(config: Any) -> Capacity:
    """Return the capacity in the configuration of a variant's stream; missing values are 1.

    Raises `ServerError` for a variant that cannot be read.
    """
    parameters = {name: config.parameters[name].string_value for name in config.parameters}
    devices = parameters.get("devices", "")
    limits = parse_variant(parameters["variant"]).limits if "variant" in parameters else {}
    return Capacity(
        int(devices) if devices.isdecimal() and 0 < int(devices) < _MOST_DEVICES else 1,
        max(int(limits.get("waiting", (0, 1))[1]), 1),
    )


def choose_variant(name: str | None, variants: Mapping[str, Variant]) -> Variant:
    """Return the variant that a request would use.

    It is the variant called `name`, else that in `MAISI_VARIANT`, else the only variant. Raises
    `InvalidRequest` if there is no such variant, and `ServerUnavailable` if none is served.
    """
    name = name or os.environ.get("MAISI_VARIANT") or only_variant(variants, "the server")
    if name not in variants:
        raise InvalidRequest(f"the variant is '{name}'; the server has {', '.join(variants)}")
    return variants[name]


def only_variant(names: Collection[str], url: str) -> str:
    """Return the one of `names`, the variants that the server at `url` serves.

    Raises `InvalidRequest` where there are several, `ServerUnavailable` where there is none.
    """
    if not names:
        raise ServerUnavailable(f"no variant is ready at {url}")
    if len(names) > 1:
        raise InvalidRequest(
            f"no variant is named, and {url} serves {', '.join(names)}; name one of them"
        )
    return next(iter(names))


def variant_names(models: Iterable[str]) -> list[str]:
    """Return the variants among the names of a server's models: those with a stream model."""
    names = set(models)
    return sorted(name for name in names if f"{name}.stream" in names)


def parse_variants(configs: Iterable[Any]) -> dict[str, Variant]:
    """Return the variants among the configurations of a server's models, by name."""
    return {
        printable(config.name): parse_variant(config.parameters["variant"].string_value)
        for config in sorted(configs, key=lambda config: str(config.name))
        if config.platform == "ensemble" and "variant" in config.parameters
    }
