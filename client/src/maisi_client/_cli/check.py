"""`maisi check`."""

from __future__ import annotations

import argparse
import json

from .common import arguments, client, warn
from .options import EXIT_CODES, Commands, generation_options, json_option, server_options


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "check",
        parents=[server_options(), json_option()],
        help="describe what generate would do, without doing it",
        description="Print what generate would make: labels, padding, memory, time, and warnings"
        " if the request is far from the training data. The command makes nothing.",
        epilog=EXIT_CODES,
    )
    parser.add_argument(
        "mask", nargs="?", metavar="MASK", help="label mask (NIfTI, DICOM SEG), if there is one"
    )
    generation_options(parser)
    parser.set_defaults(run=check)


def check(args: argparse.Namespace) -> None:
    """Print what `generate` would do."""
    with client(args) as server:
        outlook = server.check(args.mask, **arguments(args))
    if args.json:
        print(json.dumps(outlook))
        return
    sides, padded = (" x ".join(map(str, outlook[key])) for key in ("size", "padded_size"))
    spacing = " x ".join(f"{length:g}" for length in outlook["spacing"])
    seconds = outlook["expected_seconds"]
    rows = {
        "variant": outlook["variant"],
        "modality": outlook["modality"],
        "voxels": sides if sides == padded else f"{sides}, padded to {padded} inside",
        "spacing": f"{spacing} mm",
        "steps": f"{outlook['steps']} of {outlook['solver']}, guidance {outlook['guidance']:g}",
        "time": "not known yet" if seconds is None else f"about {seconds:.0f} s",
        "memory": f"{outlook['expected_gb']:.1f} GB for the decoder, less with a budget",
    }
    changes = {
        f"ids of {outlook['vocabulary']} become MAISI's": outlook["vocabulary"],
        "the body around the organs is added": outlook["body_added"],
    }
    if any(changes.values()):
        rows["mask"] = ", ".join(text for text, applies in changes.items() if applies)
    print("\n".join(f"{name:<10}{text}" for name, text in rows.items()))
    for label in outlook["labels"]:
        print(f"{label['id']:>8}  {label['name']:<32}{label['ml']:>10.1f} ml")
    warn(outlook)
