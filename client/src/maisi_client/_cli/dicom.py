"""`maisi dicom`."""

from __future__ import annotations

import argparse
import json

from .options import EXIT_CODES, Commands, json_option


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "dicom",
        parents=[json_option()],
        help="write a volume and its mask as DICOM",
        description="Write a CT or MR series, and the mask as a Segmentation; see docs/dicom.md.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("volume", metavar="VOLUME", help="NIfTI")
    parser.add_argument("--to", required=True, metavar="DIR", help="new folder of the series")
    parser.add_argument("--mask", metavar="MASK", help="label map that it follows [VOLUME_mask]")
    parser.add_argument(
        "--report",
        metavar="REPORT",
        help="the volume's report [beside it, else that of its dataset]",
    )
    parser.set_defaults(run=dicom)


def dicom(args: argparse.Namespace) -> None:
    """Write a volume and its mask as DICOM."""
    from .._dicom.series import save_dicom
    from .._volume import Volume

    volume = Volume.load(args.volume, report=args.report)
    files = save_dicom(volume, args.to, mask=args.mask)
    if args.json:
        print(json.dumps({"output": args.to, "files": [str(path) for path in files]}))
