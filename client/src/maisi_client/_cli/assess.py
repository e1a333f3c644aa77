"""`maisi assess`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING

from .options import EXIT_CODES, Commands, count, json_option
from .progress_bar import Bar

if TYPE_CHECKING:
    from .._assess.run import Assessment


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "assess",
        parents=[json_option()],
        help="measure the quality of synthetic volumes, and write a report",
        description="Measure how real and how diverse the volumes of a folder are, whether they"
        " follow their labels, whether they repeat training volumes, and what they over-represent."
        " Runs are resumable. See docs/how-to/assess.md.",
        epilog=EXIT_CODES,
    )
    add_argument = parser.add_argument
    add_argument("synthetic", metavar="FOLDER", help="folder of synthetic volumes, in any layout")
    add_argument("--real", metavar="FOLDER", help="real volumes that the model was not trained on")
    add_argument("--train-set", metavar="FOLDER", help="volumes that the model was trained on")
    add_argument(
        "--to", required=True, metavar="DIR", help="folder for report.html and report.json"
    )
    add_argument(
        "--features",
        metavar="PATH",
        help="network for FID and KID: TorchScript, or weights of a ResNet [built-in statistics]",
    )
    add_argument(
        "--train",
        action="store_true",
        help="train a small UNet on synthetic volumes, on real ones and on both, and test it on"
        " real ones; needs --real, torch and monai",
    )
    add_argument(
        "--processes", type=count, metavar="N", help="volumes read in parallel [all processors]"
    )
    add_argument("--seed", type=int, default=0, metavar="N", help="seed of all random choices [0]")
    parser.set_defaults(run=assess)


def assess(args: argparse.Namespace) -> None:
    """Measure a folder of volumes and write the report."""
    from .._assess.run import assess as measure

    with Bar(sys.stderr) as bar:
        result = measure(
            args.synthetic,
            to=args.to,
            real=args.real,
            train_set=args.train_set,
            features=args.features,
            train=args.train,
            processes=args.processes or processors(),
            seed=args.seed,
            on_progress=bar,
        )
    show(result, args.json)


def show(result: Assessment, as_json: bool) -> None:
    """Print the verdicts and the path of the report, and on stderr why volumes were left out."""
    for names in result.skipped.values():
        for why in names.values():
            print(f"maisi: warning: left out: {why}", file=sys.stderr)
    if as_json:
        verdicts = [vars(verdict) for verdict in result.verdicts]
        print(json.dumps({"report": str(result.page), "verdicts": verdicts}))
        return
    for verdict in result.verdicts:
        print(f"{verdict.level:<8} {verdict.question} {verdict.sentence}")
    print(result.page)


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
