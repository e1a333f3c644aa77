"""Make the pairs of a plan on a Ray cluster and stream them to Parquet files.

    pip install 'ray[data]' ./client
    python examples/ray/pairs_to_parquet.py plan.csv --to pairs --url a:8001,b:8001

The files have a row for each row of the plan. Its columns are `name`, `group`, `modality`, `seed`,
`faithful`, `report` (JSON), the NIfTI files `image` and `label`, and `error`. If `error` is not
empty, the row has no pair. To read an image, call `nibabel.Nifti1Image.from_bytes(row["image"])`.
See docs/how-to/cluster.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import maisi_client
import pyarrow.dataset
import ray

ATTEMPTS = 20  # attempts per row, each on every server; their pauses sum to some minutes


class Generate:
    """Make the pair of a row. Ray keeps an object of this class, with a client, in each process."""

    def __init__(self, url: str | None) -> None:
        self.client = maisi_client.Client(url)

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Return the columns of a row; `error` says why the row is refused or all attempts fail.

        Columns without a value are empty instead of null, so that all files have one schema.
        """
        arguments = json.loads(item["arguments"])
        pair = {"name": item["name"], "group": item["group"], "seed": arguments["seed"]}
        try:
            volume = self._insist(arguments)
            label = volume.mask or maisi_client.label_image(arguments["mask"])
        except maisi_client.MaisiError as error:
            print(f"row '{item['name']}': {error}", file=sys.stderr, flush=True)
            nothing = {"modality": "", "faithful": False, "image": b"", "label": b"", "report": ""}
            return {**pair, **nothing, "error": str(error)}
        return {
            **pair,
            "modality": volume.report["modality"],
            "faithful": volume.faithful,
            "image": volume.image.to_bytes(),
            "label": label.to_bytes(),
            "report": json.dumps(dict(volume.report)),
            "error": "",
        }

    def _insist(self, arguments: Mapping[str, Any]) -> maisi_client.Volume:
        for attempt in range(1, ATTEMPTS):
            try:
                return self.client.generate(**arguments)
            except maisi_client.InvalidRequest:
                raise  # every server refuses the request
            except maisi_client.MaisiError as error:
                print(f"attempt {attempt} of {ATTEMPTS}: {error}", file=sys.stderr, flush=True)
                time.sleep(min(attempt, 15))
        return self.client.generate(**arguments)


def make(
    rows: Sequence[maisi_client.Row], to: Path, url: str | None, processes: int, rows_per_file: int
) -> None:
    """Write the pairs of `rows` as Parquet files to the folder `to`.

    Each row must have a mask or an anatomy, and a seed.
    """
    items = [
        {"name": row.name, "group": row.group, "arguments": json.dumps(row.arguments, default=str)}
        for row in rows
    ]
    files = -(-len(items) // rows_per_file)  # a block of the stream becomes a file
    stream = ray.data.from_items(items, override_num_blocks=files)
    pool = ray.data.ActorPoolStrategy(size=processes)
    pairs = stream.map(Generate, fn_constructor_args=(url,), compute=pool, num_cpus=1)
    pairs.write_parquet(str(to), compression="zstd")


def count(rows: Sequence[maisi_client.Row], to: Path) -> dict[str, Any]:
    """Return the number of rows in the files, and the names of missing, doubled and failed rows."""
    columns = ["name", "faithful", "error"]
    pairs = pyarrow.dataset.dataset(to, format="parquet").to_table(columns).to_pylist()
    times = Counter(pair["name"] for pair in pairs)
    return {
        "rows": len(rows),
        "written": len(pairs),
        "missing": sorted({row.name for row in rows} - times.keys()),
        "doubled": sorted(name for name, number in times.items() if number > 1),
        "failed": sorted({pair["name"] for pair in pairs if pair["error"]}),
        "unfaithful": sum(not pair["faithful"] and not pair["error"] for pair in pairs),
        "files": len(list(to.glob("*.parquet"))),
    }


def main() -> int:
    """Make the pairs and print their counts; return 1 if a row is missing, doubled or failed."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("plan", help="file of a plan whose rows have a mask or an anatomy")
    parser.add_argument("--to", type=Path, required=True, help="new folder for the files")
    parser.add_argument("--url", help="servers, comma-separated [$MAISI_URL, else localhost]")
    parser.add_argument("--processes", type=int, default=4, help="concurrent requests [4]")
    parser.add_argument("--rows-per-file", type=int, default=16, help="pairs in a file [16]")
    parser.add_argument("--address", help="Ray cluster to use [a new one on this machine]")
    args = parser.parse_args()
    if args.to.exists():
        parser.error(f"'{args.to}' exists; a new folder is expected")
    # The masks in the rows have absolute paths, because Ray's processes have other folders.
    rows = maisi_client.read_plan(Path(args.plan).absolute())
    for row in rows:
        if not row.arguments.keys() & {"mask", "anatomy"}:
            parser.error(f"row '{row.name}' has neither mask nor anatomy; one of them is expected")
    # The processes wait for servers, so the cores of this machine do not limit their number.
    local = {} if args.address else {"num_cpus": args.processes + 1, "include_dashboard": False}
    ray.init(args.address, **local)
    start = time.monotonic()
    make(rows, args.to.absolute(), args.url, args.processes, args.rows_per_file)
    seconds = time.monotonic() - start
    numbers = count(rows, args.to)
    print(json.dumps({**numbers, "seconds": round(seconds, 1)}))
    return 1 if numbers["missing"] or numbers["doubled"] or numbers["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
