"""The plan of a dataset: a table with a row for each volume."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .._arguments import sizes_text
from .._atomic import atomic
from .._errors import InvalidRequest, first_line, printable
from .._outputs import identities, refuse_input
from .._validation import excerpt
from . import value_parsers as parse
from .groups import assign_groups
from .row import NAME, Row, check_names
from .table import read_table

_ENDING = "the plan is '{}'; its name must end in .csv or .jsonl"
_NO_COLUMN = "{}: '{}' is not a column; allowed are {}"


def read_plan(path: str | Path) -> list[Row]:
    """Return the rows of a plan: UTF-8, `.csv` with a header or `.jsonl` with an object per line.

    The columns are `name`, `group`, `license` and the arguments of `Client.generate`. The cells of
    a table are separated by commas, semicolons or tabs. Rows without text are skipped. An empty
    cell means the variant's default. Whole numbers may be written as 7.0, decimals have a point,
    and sizes and lengths have the form `96,112,96`. Paths of `mask` and `source` are relative to
    the plan's folder.

    A row without a `name` is called `case_0000`, with the number of the row from 0. This number is
    also the seed of a row without a `seed`, so a plan always makes the same dataset. Every row gets
    a `group`; see docs/how-to/datasets.md.

    Raises `InvalidRequest` with the line and column of an error.
    """
    path = Path(path)
    rows: list[Row] = []
    names: set[str] = set()
    for number, (line, cells) in enumerate(_lines(path)):
        where = f"{path}, line {line}"
        values = {key: value for key, value in cells.items() if not _is_empty(value)}
        name = _name(where, "name", values.pop("name", f"case_{number:04}"))
        group = _name(where, "group", values.pop("group")) if "group" in values else ""
        if name in names:
            raise InvalidRequest(f"{where}: name '{name}' is taken by an earlier row")
        names.add(name)
        license_ = str(values.pop("license", ""))
        arguments = {key: parse_argument(where, key, value) for key, value in values.items()}
        for key in ("mask", "source"):
            if key in arguments:
                arguments[key] = path.parent / arguments[key]
                if not os.path.isfile(arguments[key]):
                    file = printable(str(arguments[key]), 500)
                    raise InvalidRequest(f"{where}: {key} '{file}' does not exist or is not a file")
        rows.append(Row(name, {"seed": number, **arguments}, license_, group))
    if not rows:
        raise InvalidRequest(f"{path}: the plan has no row")
    try:
        return assign_groups(rows)
    except InvalidRequest as error:
        raise InvalidRequest(f"{path}: {error}") from error


def _name(where: str, column: str, value: Any) -> str:
    name = str(value)
    if not NAME.fullmatch(name):
        raise InvalidRequest(
            f"{where}: {column} is {excerpt(name)}; letters, digits, . _ - are allowed"
        )
    return name


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def parse_argument(where: str, key: str, value: Any) -> Any:
    """Return the value of a column from a text or a JSON value.

    The columns are the arguments of `Client.generate`, with `mask` and `source` as paths. Raises
    `InvalidRequest`, whose sentence starts with `where`.
    """
    if key not in _COLUMNS:
        raise InvalidRequest(_NO_COLUMN.format(where, printable(key, 60), ", ".join(_COLUMNS)))
    try:
        return _COLUMNS[key](value)
    except ValueError as error:
        raise InvalidRequest(f"{where}: {key} is {excerpt(value)}; expected: {error}") from None


def write_plan(rows: Sequence[Row], path: str | Path) -> Path:
    """Write a plan that `read_plan` reads; return its path.

    The same rows give the same bytes. Each row is written with its group. `mask` and `source` must
    be paths. They are written relative to the folder of the plan, so that plan and files can be
    moved together. Raises `InvalidRequest` for a row that a plan cannot express, for a name that
    two rows have, and if the plan cannot be written or would replace a mask or source.
    """
    path = Path(path)
    check_names(rows)
    inputs = identities(
        (f"the {name} of row {row.name},", row.arguments.get(name))
        for row in rows
        for name in ("mask", "source")
    )
    refuse_input(inputs, "the plan", path)
    records = [_record(row, path.parent) for row in assign_groups(rows)]
    used_keys = {key for record in records for key in record}
    columns = [key for key in ("name", "group", *_COLUMNS, "license") if key in used_keys]
    text = io.StringIO()
    if path.suffix.lower() == ".jsonl":
        for record in records:
            text.write(json.dumps({key: record[key] for key in columns if key in record}) + "\n")
    elif path.suffix.lower() == ".csv":
        table = csv.DictWriter(text, columns, lineterminator="\n")
        table.writeheader()
        for record in records:
            table.writerow({key: _cell(value) for key, value in record.items()})
    else:
        raise InvalidRequest(_ENDING.format(path))
    try:
        content = text.getvalue().encode()
    except UnicodeEncodeError as error:  # only in a CSV; JSON escapes these characters
        line = text.getvalue()[: error.start].count("\n") + 1
        raise InvalidRequest(
            f"the plan '{path}' cannot contain the name of a file in line {line}, which is not"
            " UTF-8; rename the file, or write a .jsonl"
        ) from error
    try:
        with atomic(path) as draft:
            draft.write_bytes(content)
    except OSError as error:
        raise InvalidRequest(f"the plan '{path}' cannot be written: {error}") from error
    return path


def _record(row: Row, folder: Path) -> dict[str, Any]:
    """Return the cells of a row of a plan in `folder`."""
    record: dict[str, Any] = {"name": row.name, "group": row.group}
    for key, value in row.arguments.items():
        if key not in _COLUMNS:
            raise InvalidRequest(_NO_COLUMN.format(f"row {row.name}", key, ", ".join(_COLUMNS)))
        if key in ("mask", "source") and isinstance(value, (str, os.PathLike)):
            # Resolve links to folders, because `..` would lead to another folder. Do not resolve a
            # link to the file itself, because its target may have another name.
            file = Path(value)
            relative = os.path.relpath(file.parent.resolve() / file.name, folder.resolve())
            record[key] = Path(relative).as_posix()
        elif key == "anatomy":
            record[key] = sizes_text(value)
        elif isinstance(value, (list, tuple)):
            record[key] = list(value)
        elif value is None or isinstance(value, (str, int, float)):
            record[key] = value
        else:
            kind = type(value).__name__
            raise InvalidRequest(
                f"row {row.name}: {key} is of type {kind}; a plan holds text, numbers and paths"
            )
    if row.license:
        record["license"] = row.license
    return {key: value for key, value in record.items() if value is not None}


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, cells) for each row."""
    match path.suffix.lower():
        case ".csv":
            yield from read_table(path, "plan")
        case ".jsonl":
            yield from _objects(path)
        case _:
            raise InvalidRequest(_ENDING.format(path))


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for line, content in enumerate(file, 1):
                if content.strip():
                    yield line, _object(path, line, content)
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"the plan '{path}' cannot be read: {first_line(error)}") from error


def _object(path: Path, line: int, content: str) -> dict[str, Any]:
    try:
        value = json.loads(content, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{path}, line {line}: not JSON: {first_line(error)}") from error
    if not isinstance(value, dict):
        raise InvalidRequest(f"{path}, line {line}: an object is expected, such as {{'seed': 1}}")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; raises ValueError for a repeated key."""
    for key, times in Counter(key for key, _ in pairs).items():
        if times > 1:
            raise ValueError(f"key {excerpt(key)} occurs {times} times")
    return dict(pairs)


_COLUMNS: Mapping[str, Callable[[Any], Any]] = {
    "variant": parse.text,
    "mask": parse.path,
    "vocabulary": parse.text,
    "anatomy": parse.sizes,
    "organs": parse.names,
    "augment": parse.truth,
    "source": parse.path,
    "strength": parse.number,
    "preset": parse.text,
    "modality": parse.text,
    "size": parse.integers,
    "spacing": parse.numbers(1, 3),
    "seed": parse.integer,
    "steps": parse.integer,
    "guidance": parse.number,
    "guidance_interval": parse.numbers(2),
    "solver": parse.text,
    "top_region": parse.text,
    "bottom_region": parse.text,
    "redraws": parse.integer,
}
