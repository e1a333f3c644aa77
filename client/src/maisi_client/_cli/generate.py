"""`maisi generate`."""

from __future__ import annotations

import argparse
import json
import sys
import time

from .._outputs import check_outputs
from .common import arguments, client, files_read, volume_files, warn
from .options import EXIT_CODES, Commands, generation_options, json_option, server_options
from .progress_bar import Bar


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "generate",
        parents=[server_options(), json_option()],
        help="make a volume from a mask, or without one",
        description="Make a volume on the grid of the mask (OUT.nii.gz) and write its report beside"
        " it (OUT.json). Existing files of these names are replaced, but never an input of the"
        " command. The defaults of the arguments are those of the variant.",
        epilog=EXIT_CODES,
    )
    parser.add_argument(
        "mask",
        nargs="?",
        metavar="MASK",
        help="label mask (NIfTI, DICOM SEG); without it, only an image is made",
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="volume to write, .nii.gz or .nii"
    )
    parser.add_argument(
        "--preview", metavar="PNG", help="also draw the mask and the volume in three planes"
    )
    generation_options(parser)
    parser.set_defaults(run=generate)


def generate(args: argparse.Namespace) -> None:
    """Make a volume, write it and its report."""
    from .._mask import label_image
    from .._preview import preview, require_pillow
    from .._volume import report_path

    report = report_path(args.output)
    outputs = [*volume_files(args.output), ("--preview", args.preview)]
    check_outputs([*files_read(args), ("--source", args.source)], outputs)
    if args.preview:
        require_pillow()
    started = time.monotonic()
    with client(args) as server, Bar(sys.stderr) as bar:
        volume = server.generate(args.mask, on_progress=bar, **arguments(args))
    volume.save(args.output)
    warn(volume.report)
    if args.preview:
        title = str(volume.report.get("modality", "volume"))
        mask = label_image(args.mask) if args.mask else None
        preview(volume.mask or mask, [(title, volume)], args.preview)
    if args.json:
        files = {"output": args.output, "report_path": str(report), "preview": args.preview}
        print(json.dumps({**files, "report": dict(volume.report)}))
    elif sys.stderr.isatty():
        shape = " x ".join(map(str, volume.image.shape))
        seed, seconds = volume.report.get("seed"), time.monotonic() - started
        print(f"{args.output}: {shape} voxels, seed {seed}, {seconds:.1f} s", file=sys.stderr)
