"""`maisi reproduce`."""

from __future__ import annotations

import argparse
import json
import sys

from .._outputs import check_outputs
from .common import client, volume_files
from .options import EXIT_CODES, Commands, json_option, server_options
from .progress_bar import Bar


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "reproduce",
        parents=[server_options(), json_option()],
        help="make a volume again from its report, and compare the bytes",
        description="Make the volume of a report again. The command fails if a digest differs.",
        epilog=EXIT_CODES,
    )
    add_argument = parser.add_argument
    add_argument("sidecar", metavar="REPORT", help="report, the .json file of a volume")
    add_argument("-o", "--output", metavar="OUT", help="also write the volume: .nii.gz or .nii")
    add_argument("--mask", metavar="MASK", help="new path of the mask [that of the report]")
    add_argument("--source", metavar="VOLUME", help="new path of the source [that of the report]")
    parser.set_defaults(run=reproduce)


def reproduce(args: argparse.Namespace) -> None:
    """Make a volume again from its sidecar; raises Mismatch if it differs."""
    from .. import _reproduce

    if args.output:
        request = _reproduce.read_sidecar(args.sidecar)["request"]
        inputs = [("REPORT", args.sidecar), ("--mask", args.mask), ("--source", args.source)]
        recorded = [(f"the {name} of REPORT", request.get(name)) for name in ("mask", "source")]
        check_outputs([*inputs, *recorded], volume_files(args.output))
    with client(args) as server, Bar(sys.stderr) as bar:
        volume = _reproduce.reproduce(
            server, args.sidecar, mask=args.mask, source=args.source, on_progress=bar
        )
    if args.output:
        volume.save(args.output)
    digest = volume.report["sha256"]["image"]
    print(json.dumps({"sha256": digest}) if args.json else f"the same: SHA-256 {digest}")
