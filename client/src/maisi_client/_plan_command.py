"""What `maisi plan` does."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter

from ._cohort import Cohort, plan_like
from ._commands import _client
from ._errors import InvalidRequest
from ._outputs import check_outputs
from ._plan import Row, write_plan
from ._planning import make_plan
from ._variant import named

_BESIDE_LIKE = ("masks", "augment", "modality", "vocabulary", "spacing", "size", "preset")


def plan(args: argparse.Namespace) -> None:
    """Write a plan and say what is in it."""
    read = [("--masks", path) for path in args.masks] + [
        ("--like", path) for path in args.like or ()
    ]
    check_outputs(read, [("PLAN", args.plan)])
    cohort = _like(args) if args.like else Cohort(_drawn(args), {})
    write_plan(cohort.rows, args.plan)
    for reason, times in cohort.left_out.items():
        print(f"maisi: {times} series left out: {reason}", file=sys.stderr)
    for terms in sorted({row.license for row in cohort.rows} - {""}):
        print(f"maisi: licence of the plan: {terms}", file=sys.stderr)
    counts = Counter(row.arguments.get("modality", "default") for row in cohort.rows)
    if args.json:
        told = {"plan": args.plan, "rows": len(cohort.rows), "modalities": counts}
        print(json.dumps(told | {"left_out": cohort.left_out}))
    else:
        shares = ", ".join(f"{times} {name}" for name, times in sorted(counts.items()))
        print(f"{args.plan}: {len(cohort.rows)} rows, {shares}")


def _drawn(args: argparse.Namespace) -> list[Row]:
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
    given = [name for name in _BESIDE_LIKE if getattr(args, name)]
    if given:
        raise InvalidRequest(f"--{given[0]} is given together with --like, which tells it")
    with _client(args) as client:
        variants = client.info()
    return plan_like(
        args.like,
        named(args.variant, variants),
        args.rows,
        seed=args.seed,
        steps=args.steps,
        guidance=args.guidance,
    )
