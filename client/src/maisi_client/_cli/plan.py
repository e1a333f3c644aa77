"""`maisi plan`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from typing import TYPE_CHECKING

from .._counted import counted
from .._errors import InvalidRequest
from .._outputs import check_outputs
from .common import client
from .options import (
    EXIT_CODES,
    Commands,
    contrast_options,
    count,
    grid_options,
    json_option,
    server_options,
)

if TYPE_CHECKING:
    from .._datasets.cohort import Cohort
    from .._datasets.row import Row

_BESIDE_LIKE = ("masks", "augment", "modality", "vocabulary", "spacing", "size", "preset")


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "plan",
        parents=[server_options(), json_option()],
        help="write a plan for `maisi dataset`: modalities by shares, masks in turn",
        description="Write a plan of N rows. Only --like needs a server."
        " See docs/how-to/datasets.md.",
        epilog=EXIT_CODES,
    )
    add_argument = parser.add_argument
    add_argument("plan", metavar="PLAN", help="plan to write, .csv or .jsonl")
    add_argument("-n", "--rows", type=count, required=True, metavar="N", help="number of volumes")
    add_argument(
        "--masks", nargs="+", default=[], metavar="PATH", help="masks (NIfTI), or folders of masks"
    )
    add_argument(
        "--augment", action="store_true", help="augment each mask slightly, by the seed of its row"
    )
    add_argument(
        "--like",
        nargs="+",
        metavar="CSV",
        help="metadata tables of MR-RATE: plan its contrasts, planes, fields of view, spacings",
    )
    add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of the plan; the same seed gives the same plan [0]",
    )
    grid_options(parser)
    contrast_options(parser, _shares, "modalities with their shares: mri_t1=0.5,mri_flair=0.5")
    parser.set_defaults(run=plan)


def plan(args: argparse.Namespace) -> None:
    """Write a plan and print a summary."""
    from .._datasets.cohort import Cohort
    from .._datasets.plan import write_plan

    inputs = [("--masks", path) for path in args.masks] + [
        ("--like", path) for path in args.like or ()
    ]
    check_outputs(inputs, [("PLAN", args.plan)])
    cohort = _like(args) if args.like else Cohort(_random_rows(args), {})
    write_plan(cohort.rows, args.plan)
    for reason, times in cohort.left_out.items():
        print(f"maisi: {times} series left out: {reason}", file=sys.stderr)
    for terms in sorted({row.license for row in cohort.rows} - {""}):
        print(f"maisi: licence of the plan: {terms}", file=sys.stderr)
    counts = Counter(row.arguments.get("modality", "default") for row in cohort.rows)
    groups = len({row.group for row in cohort.rows})
    if args.json:
        summary = {"plan": args.plan, "rows": len(cohort.rows), "groups": groups}
        print(json.dumps({**summary, "modalities": counts, "left_out": cohort.left_out}))
    else:
        shares = ", ".join(f"{times} {name}" for name, times in sorted(counts.items()))
        rows = counted(len(cohort.rows), "row")
        print(f"{args.plan}: {rows} of {counted(groups, 'anatomy', 'anatomies')}, {shares}")


def _random_rows(args: argparse.Namespace) -> list[Row]:
    from .._datasets.planning import make_plan

    return make_plan(
        args.rows,
        modalities=args.modality,
        masks=args.masks,
        augment=args.augment,
        seed=args.seed,
        variant=args.variant or os.environ.get("MAISI_VARIANT"),
        vocabulary=args.vocabulary,
        preset=args.preset,
        size=args.size,
        spacing=args.spacing,
        steps=args.steps,
        guidance=args.guidance,
    )


def _like(args: argparse.Namespace) -> Cohort:
    from .._datasets.cohort import plan_like
    from .._variant import choose_variant

    others = [name for name in _BESIDE_LIKE if getattr(args, name)]
    if others:
        raise InvalidRequest(f"--{others[0]} cannot be combined with --like, which sets it")
    with client(args) as server:
        variants = server.info()
    return plan_like(
        args.like,
        choose_variant(args.variant, variants),
        args.rows,
        seed=args.seed,
        steps=args.steps,
        guidance=args.guidance,
    )


def _shares(text: str) -> dict[str, float]:
    """Read `mri_t1=2,mri_t2=1`; without a number a share is 1."""
    parts = [part.partition("=") for part in text.split(",")]
    shares = {name.strip(): float(share or 1) for name, _, share in parts}
    if len(shares) < len(parts) or not all(shares):
        raise argparse.ArgumentTypeError(f"'{text}' has a name twice or none")
    return shares
