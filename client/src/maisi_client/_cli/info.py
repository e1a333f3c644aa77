"""`maisi info`."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .common import client
from .options import EXIT_CODES, Commands, json_option, server_options

if TYPE_CHECKING:
    from .._variant import Variant


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "info",
        parents=[server_options(), json_option()],
        help="print the variants of the server",
        description="Print every variant: modalities, labels, sizes of an anatomy, limits,"
        " defaults and presets.",
        epilog=EXIT_CODES,
    )
    parser.set_defaults(run=info)


def info(args: argparse.Namespace) -> None:
    """Print what the server offers."""
    with client(args) as server:
        variants = server.info()
    if args.json:
        print(json.dumps({name: vars(variant) for name, variant in variants.items()}))
    else:
        texts = map(_describe, variants.values())
        print("\n\n".join(texts) or f"no variant is ready at {server.url}")


def _describe(variant: Variant) -> str:
    def pairs(mapping: Any) -> str:
        return ", ".join(f"{key} {value}" for key, value in mapping.items())

    labels = variant.labels if variant.masks else {}
    limits = {key: f"{low:g}..{high:g}" for key, (low, high) in variant.limits.items()}
    rows = {
        "license": variant.license,
        "modalities": ", ".join(variant.modalities),
        "masks": "" if variant.masks else "none: it makes images without masks",
        "regions": ", ".join(variant.regions),
        "size": pairs(variant.size),
        "spacing (mm)": pairs(variant.spacing),
        "limits": pairs(limits),
        "solvers": ", ".join(variant.solvers),
        "defaults": pairs(variant.defaults),
        "anatomy": ", ".join(_size(name, size) for name, size in variant.anatomy.items()),
        "labels": ", ".join(f"{id_} {name}" for id_, name in labels.items()),
    }
    lines = [_row(name, text) for name, text in rows.items() if text]
    return "\n".join([variant.name, *lines, *_presets(variant)])


def _size(name: str, size: Mapping[str, Any]) -> str:
    """Return a size of an anatomy with its default and, if the server publishes it, its meaning."""
    default = "absent" if size["default"] == -1 else f"{size['default']:g}"
    return f"{name} {default}" + (f" ({size['meaning']})" if "meaning" in size else "")


def _row(name: str, text: str) -> str:
    return textwrap.fill(f"{name:<13} {text}", 100, initial_indent="  ", subsequent_indent=" " * 16)


def _presets(variant: Variant) -> list[str]:
    """Return a table of the combinations that the model was trained for."""
    scans = sum(preset.get("scans", 0) for preset in variant.presets.values())
    rows = [("preset", "modality", "voxels", "spacing (mm)", "training data")] * bool(
        variant.presets
    )
    for name, preset in variant.presets.items():
        share = preset.get("share", preset["scans"] / max(scans, 1) if "scans" in preset else None)
        percent = "" if share is None else f"{100 * share:.2g} %"
        sides, lengths = (" x ".join(f"{n:g}" for n in preset[key]) for key in ("size", "spacing"))
        rows.append((name, preset["modality"], sides, lengths, percent))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    caveats: dict[str, list[str]] = {}
    for name, preset in variant.presets.items():
        if "caveat" in preset:
            caveats.setdefault(preset["caveat"], []).append(name)
    notes = (_row("caveat", f"{', '.join(names)}: {text}") for text, names in caveats.items())
    return [f"  {line}" for line in lines] + list(notes) if variant.presets else []
