"""`maisi mask`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from .._atomic import atomic
from .._outputs import check_outputs
from .common import arguments, client, files_read
from .options import EXIT_CODES, Commands, json_option, mask_options, server_options
from .progress_bar import Bar


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "mask",
        parents=[server_options(), json_option()],
        help="write only a mask: generated from an anatomy, or completed",
        description="Write the mask that generate would follow, in MAISI's label ids. OUT is"
        " replaced if it exists, unless it is MASK.",
        epilog=EXIT_CODES,
    )
    parser.add_argument(
        "mask", nargs="?", metavar="MASK", help="label mask (NIfTI, DICOM SEG) to complete"
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="mask to write, .nii.gz or .nii"
    )
    mask_options(parser, "mask")
    parser.set_defaults(run=mask)


def mask(args: argparse.Namespace) -> None:
    """Make or complete a mask and write it."""
    import nibabel as nib

    from .._volume import report_path

    report_path(args.output)  # raises for a wrong suffix
    check_outputs(files_read(args), [("-o", args.output)])
    with client(args) as server, Bar(sys.stderr) as bar:
        labels = server.mask(args.mask, on_progress=bar, **arguments(args))
    with atomic(Path(args.output)) as draft:
        nib.save(labels, draft)
    if args.json:
        print(json.dumps({"output": args.output}))
