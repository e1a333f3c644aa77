"""Make a dataset from a plan. The run can be stopped at any moment and continued."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .._atomic import atomic
from .._client import Client
from .._errors import InvalidRequest, MaisiError
from .._limits import check_counts, check_shard
from .._outputs import identities, refuse_input
from .._provenance import json_arguments
from .._variant import Variant
from .._volume import Volume
from .cases import read_report
from .description import FAILED, UNFAITHFUL, check_folder, describe
from .fleet import Fleet, NoLongerNeeded, Release, insist
from .groups import assign_groups
from .layouts import make_layout
from .layouts.layout import Layout
from .locks import description_lock, shard_lock
from .modalities import named_channels, named_modalities
from .row import Row, check_names
from .saving import remove_drafts, save_case, update_report
from .unchanged import Unchanged


@dataclass(frozen=True)
class Outcome:
    """The result of a row.

    `state` is `done`, `unfaithful`, `failed` (then `error` is not empty), or `kept` for a row that
    an earlier run finished. `utilisation` is the fraction of the servers' time in this run so far,
    0 to 1, that they spent on its volumes according to their reports; None for a row that is kept.
    """

    name: str
    state: str
    error: str = ""
    utilisation: float | None = None


def make_dataset(
    rows: Sequence[Row],
    to: str | Path,
    client: Client,
    *,
    layout: str = "plain",
    channels: Sequence[str] = (),
    jobs: int | None = None,
    attempts: int = 3,
    shard: tuple[int, int] = (0, 1),
) -> Generator[Outcome, None, None]:
    """Make every missing row of a plan; yield the outcome of each row when it ends.

    Each server gets enough rows at a time to stay busy, according to the capacity that it
    publishes. With `jobs`, all servers together have that number of rows. Large rows start first,
    and one server makes the rows of one size one after another. The order does not change the
    files.

    A row has an image, labels if it has a mask, and a report, which is written last. If a run is
    stopped, even by kill -9, no finished volume is lost, and the next run repeats none.
    `layout` is the layout of the files: `plain` (`images/NAME.nii.gz`, `labels/NAME.nii.gz`,
    `reports/NAME.json`), `nnunet`, `msd` or `bids`. The files that describe the dataset as a whole
    are written at the end. If the report of a volume says that it does not follow its mask, its
    files are written below `unfaithful/`. A row that fails is tried `attempts` times. Then the
    error is written to `failed/NAME.json`, and the next run tries the row again. Rows without a
    group get one; see docs/how-to/datasets.md.

    `channels` are modalities, such as `["mri_t1", "mri_flair"]`. Every row is made in each of them,
    with one seed and on one grid, as a case of several images. If one image does not follow the
    mask, the case is unfaithful. A class code of the variant, such as 9, stands for its modality.

    `shard` (I, N) makes only the rows I, I + N, ...; the processes of the shards need no
    coordinator.

    A finished row whose arguments were edited is refused: a folder has volumes of one plan. Only
    arguments that the row names are compared with its report. Masks and sources are read for this
    only if they were moved or changed after the volume was made. If a plan names another group or
    licence for a finished row, its report gets them; in `bids`, where the group is a part of the
    paths, the row is refused.

    Raises `InvalidRequest` if `jobs`, `attempts` or `shard` is out of range, two rows have the same
    name, a finished row has other arguments than its volume, another process makes the same shard
    or shards of another number in the same folder, a mask or source would be replaced, the layout
    does not allow a row, or the folder has another dataset.
    Raises `MaisiError` if files cannot be locked, for example on Windows.
    """
    check_shard(shard)
    check_counts(attempts=attempts, **({} if jobs is None else {"jobs": jobs}))
    folder, (index, count) = Path(to), shard
    check_names(rows)
    variants = functools.cache(client.info)
    channels = named_channels(channels, rows, variants)
    named_groups = {row.name: row.group for row in rows if row.group}
    rows = assign_groups(named_modalities(rows, variants))
    dataset_layout = make_layout(layout, folder, rows, variants, channels)
    check_folder(folder, dataset_layout)
    job = _Job(folder, dataset_layout, client, attempts, variants, named_groups)
    own_rows = list(rows[index::count])
    (folder / FAILED).mkdir(parents=True, exist_ok=True)
    with shard_lock(folder, index, count):
        missing: list[Row] = []
        finished: list[Row] = []
        for row in own_rows:
            (finished if _is_finished(row, job) else missing).append(row)
        _refuse_inputs(rows, missing, folder, dataset_layout)
        yield from (Outcome(row.name, "kept") for row in finished)
        remove_drafts((folder, folder / UNFAITHFUL), [dataset_layout.paths(row) for row in missing])
        yield from _work(missing, job, jobs)
        with description_lock(folder / ".describing"):  # several shards may end at the same time
            describe(folder, dataset_layout)


@dataclass(frozen=True)
class _Job:
    """The settings that all rows share; `variants` asks a server at its first call only.

    `named_groups` has the groups that the plan itself names, by the names of their rows.
    """

    folder: Path
    layout: Layout
    client: Client
    attempts: int
    variants: Callable[[], Mapping[str, Variant]]
    named_groups: Mapping[str, str]
    unchanged: Unchanged = field(default_factory=Unchanged)


def _is_finished(row: Row, job: _Job) -> bool:
    """Return whether a row has all its files.

    Raises `InvalidRequest` if the row was made in another layout, with other channels or arguments,
    or, in `bids`, with another group or modality.
    """
    reports = job.layout.paths(row).reports
    bases = job.folder, job.folder / UNFAITHFUL
    for base in bases:
        for other in job.layout.elsewhere(row, base):
            if read_report(other, job.layout.common)["name"] == row.name:
                raise InvalidRequest(
                    f"row '{row.name}' has its report in '{other}', but its group and modality need"
                    f" '{base / reports[0]}'; its old group and modality, or another name, are"
                    " expected"
                )
    for base in bases:
        if all((base / report).exists() for report in reports):
            contents = [read_report(base / report, job.layout.common) for report in reports]
            for report, content in zip(reports, contents, strict=True):
                job.unchanged.check(row, base / report, content)
            for report, content in zip(reports, contents, strict=True):
                group = job.named_groups.get(row.name, "")
                update_report(base / report, content, group, row.license)
            (job.folder / _failure_path(row)).unlink(missing_ok=True)
            return True
    return False


def _refuse_inputs(
    rows: Sequence[Row], missing: Sequence[Row], folder: Path, layout: Layout
) -> None:
    """Raise `InvalidRequest` if a file of a `missing` row would replace a mask or source."""
    inputs = identities(
        (f"the {name} of row '{row.name}',", row.arguments.get(name))
        for row in rows
        for name in ("mask", "source")
    )
    for row in missing:
        files = layout.paths(row).files
        for path in (*files, *(UNFAITHFUL / path for path in files), _failure_path(row)):
            refuse_input(inputs, f"a file of row '{row.name}'", folder / path)


def _work(rows: Sequence[Row], job: _Job, jobs: int | None) -> Iterator[Outcome]:
    if not rows:
        return
    with Fleet(job.client, functools.partial(_make, job=job), jobs=jobs) as fleet:
        fleet.add(dict(enumerate(rows)))
        for _ in rows:
            _, outcome = fleet.results.get()
            if isinstance(outcome, BaseException):
                raise outcome
            yield replace(outcome, utilisation=fleet.utilisation)


def _make(
    row: Row, client: Client, release: Release, stopped: threading.Event, job: _Job
) -> Outcome:
    failure = job.folder / _failure_path(row)
    for base in (job.folder, job.folder / UNFAITHFUL):
        for path in job.layout.paths(row).files:  # of an earlier volume whose report was removed
            (base / path).unlink(missing_ok=True)
    try:
        variants = job.variants()
        volumes = _channels(row, client, stopped, job)
        release(volumes)
        variant = variants.get(str(volumes[0].report["variant"]))
        license_ = variant.license if variant else ""
        faithful = all(volume.faithful for volume in volumes)
        base = job.folder if faithful else job.folder / UNFAITHFUL
        save_case(row, volumes, base, job.layout, license_)
    except NoLongerNeeded:
        return Outcome(row.name, "failed", "stopped")
    except MaisiError as error:
        record: dict[str, Any] = {"name": row.name, "group": row.group, "error": str(error)}
        record |= {"type": type(error).__name__, "kind": error.kind}
        record |= {"request": json_arguments(row.arguments)}
        with atomic(failure) as draft:
            draft.write_text(json.dumps(record, indent=2) + "\n")
        return Outcome(row.name, "failed", str(error))
    failure.unlink(missing_ok=True)
    return Outcome(row.name, "done" if faithful else "unfaithful")


def _channels(row: Row, client: Client, stopped: threading.Event, job: _Job) -> list[Volume]:
    """Return the volume of a row, or a volume for each channel, with one seed."""
    if not job.layout.common.channels:
        return [insist(row, client, job.attempts, stopped)]
    volumes: list[Volume] = []
    arguments = dict(row.arguments)
    for modality in job.layout.common.channels:
        channel = replace(row, arguments={**arguments, "modality": modality})
        volumes.append(insist(channel, client, job.attempts, stopped))
        arguments["seed"] = volumes[0].report["seed"]  # random if the row has no seed
    return volumes


def _failure_path(row: Row) -> Path:
    """Return the path of the error of a row, relative to the dataset's folder."""
    return FAILED / f"{row.name}.json"
