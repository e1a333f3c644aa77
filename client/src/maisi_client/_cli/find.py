"""`maisi find`."""

from __future__ import annotations

import argparse
import json
import os
import sys

from .._datasets.value_parsers import integers
from .._errors import InvalidRequest
from .options import EXIT_CODES, Commands, json_option, lengths


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "find",
        parents=[json_option()],
        help="search a library of masks",
        description="Print the masks of a library that meet all conditions, sorted by the distance"
        " of their grid from --size and --spacing. See docs/how-to/generation.md.",
        epilog=EXIT_CODES,
    )
    add_argument = parser.add_argument
    add_argument(
        "database", metavar="JSON", help="list of masks, like NVIDIA's candidate_masks.json"
    )
    add_argument("folder", metavar="FOLDER", help="folder of the masks")
    add_argument(
        "--labels",
        type=integers,
        default=[],
        metavar="ID,...",
        help="label ids that a mask must have",
    )
    add_argument("--regions", metavar="R,...", help="regions that a mask must show")
    add_argument(
        "--size", type=integers, metavar="X,Y,Z", help="voxels of the grid to compare with"
    )
    add_argument(
        "--spacing", type=lengths, metavar="MM", help="spacing of that grid: one number, or X,Y,Z"
    )
    parser.set_defaults(run=find)


def find(args: argparse.Namespace) -> None:
    """Print the masks of a library that meet the conditions."""
    from .._datasets.mask_library import find_masks

    candidates = find_masks(
        args.database,
        args.folder,
        labels=args.labels,
        regions=args.regions.split(",") if args.regions else [],
        size=args.size,
        spacing=args.spacing,
    )
    if not candidates:
        raise InvalidRequest(f"no mask of '{args.database}' matches the request")
    paths = [str(candidate.path) for candidate in candidates]
    if args.json or not hasattr(sys.stdout, "buffer"):
        print(json.dumps(paths) if args.json else "\n".join(paths))
    else:  # in the file system's encoding, whatever that of the terminal
        sys.stdout.buffer.write(b"".join(os.fsencode(path) + b"\n" for path in paths))
