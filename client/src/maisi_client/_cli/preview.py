"""`maisi preview`."""

from __future__ import annotations

import argparse
import json

from .._errors import MaskError
from .._outputs import check_outputs
from .options import EXIT_CODES, Commands, json_option


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "preview",
        parents=[json_option()],
        help="draw a mask and volumes in three planes",
        description="Draw a column for the mask, if there is one, and for each volume. The titles"
        " are the names of the files.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("mask", nargs="?", metavar="MASK", help="label mask (NIfTI, DICOM SEG)")
    parser.add_argument("volumes", nargs="*", metavar="VOLUME", help="volumes on the mask's grid")
    parser.add_argument(
        "--volume",
        action="append",
        default=[],
        metavar="VOLUME",
        help="a volume, if there is no MASK; may be repeated",
    )
    parser.add_argument("-o", "--output", required=True, metavar="PNG", help="picture to write")
    parser.set_defaults(run=preview)


def preview(args: argparse.Namespace) -> None:
    """Draw a mask and volumes."""
    from .._preview import preview as draw
    from .._volume import stem

    volumes = [*args.volumes, *args.volume]
    pictures = [("MASK", args.mask), *(("VOLUME", volume) for volume in volumes)]
    check_outputs(pictures, [("-o", args.output)])
    names = [stem(volume) for volume in volumes]
    try:
        draw(args.mask, list(zip(names, volumes, strict=True)), args.output)
    except MaskError as error:
        raise MaskError(f"{error}; a volume without a mask is given as --volume") from None
    if args.json:
        print(json.dumps({"output": args.output}))
