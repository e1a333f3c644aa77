"""`maisi dicom`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .._counted import counted
from .._errors import InvalidRequest
from .options import EXIT_CODES, Commands, json_option

if TYPE_CHECKING:
    from .._dicom.sending import Destination


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "dicom",
        parents=[json_option()],
        help="write a volume or a dataset as DICOM, and send it to an archive",
        description="Write a volume as a CT or MR series, and its mask as a Segmentation and as an"
        " RT Structure Set, or send them. For a dataset, do so for each volume. See"
        " docs/how-to/dicom.md.",
        epilog=EXIT_CODES,
    )
    add_argument = parser.add_argument
    add_argument("volume", metavar="VOLUME", help="volume (NIfTI), or the folder of a dataset")
    add_argument(
        "--to",
        metavar="DIR",
        help="new folder for the files; for a dataset, a folder with one such folder for each"
        " volume, to which a second run adds missing ones [none: the files are only sent]",
    )
    add_argument("--mask", metavar="MASK", help="mask of the volume [VOLUME_mask]")
    add_argument(
        "--report",
        metavar="REPORT",
        help="report of the volume [beside the volume, or else in its dataset]",
    )
    add_argument(
        "--labelmap",
        action="store_true",
        help="write the Segmentation as LABELMAP, which few programs read yet [BINARY]",
    )
    add_argument(
        "--send", metavar="HOST:PORT/AET", help="send the files to this DICOM node by C-STORE"
    )
    add_argument(
        "--stow",
        metavar="URL",
        help="send the files to this DICOMweb service, such as https://pacs.example/dicom-web; the"
        " URL may contain user and password; $MAISI_STOW_TOKEN may have a bearer token",
    )
    parser.set_defaults(run=dicom)


def dicom(args: argparse.Namespace) -> None:
    """Write a volume and its mask, or those of a dataset, as DICOM; send them."""
    from .._dicom.store import node
    from .._dicom.stow import service

    destinations = [node(args.send)] if args.send else []
    destinations += [service(args.stow)] if args.stow else []
    if not (args.to or destinations):
        raise InvalidRequest("nothing is to be done; --to, --send or --stow is expected")
    if Path(args.volume).is_dir():
        _dataset(args, destinations)
    else:
        _volume(args, destinations)


def _volume(args: argparse.Namespace, destinations: Sequence[Destination]) -> None:
    from .._dicom.series import save_dicom
    from .._volume import Volume

    volume = Volume.load(args.volume, report=args.report)
    with tempfile.TemporaryDirectory() as temporary:
        to = args.to or Path(temporary, "series")
        files = save_dicom(volume, to, mask=args.mask, labelmap=args.labelmap)
        for destination in destinations:
            destination.send(files)
    if args.json:
        kept = {"output": args.to, "files": [str(path) for path in files]} if args.to else {}
        print(json.dumps({**kept, "sent": [destination.name for destination in destinations]}))


def _dataset(args: argparse.Namespace, destinations: Sequence[Destination]) -> None:
    from .._dicom.dataset import dataset_dicom

    for name in ("mask", "report"):
        if getattr(args, name):
            raise InvalidRequest(f"--{name} is of one volume; '{args.volume}' is a folder")
    states: Counter[str] = Counter()
    try:
        for study in dataset_dicom(
            args.volume, args.to, labelmap=args.labelmap, destinations=destinations
        ):
            states[study.state] += 1
            if study.error:
                print(f"{study.name}: {study.error}", file=sys.stderr, flush=True)
            elif not args.json:
                print(f"{study.name}: {study.state}", flush=True)
    finally:
        if args.json:
            sent = [destination.name for destination in destinations]
            print(json.dumps({"output": args.to, "volumes": dict(states), "sent": sent}))
        elif states:
            print(", ".join(f"{number} {state}" for state, number in states.items()))
    if states["failed"]:
        volumes = counted(sum(states.values()), "volume")
        raise InvalidRequest(f"{states['failed']} of {volumes} failed")
