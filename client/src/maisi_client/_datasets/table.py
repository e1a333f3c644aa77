"""Read CSV tables that spreadsheets save, with line numbers."""

from __future__ import annotations

import csv
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from .._errors import InvalidRequest, first_line
from .._validation import excerpt

_SEPARATORS = ",;\t"  # spreadsheets use the semicolon where the decimal separator is a comma
_BLANK = f'{_SEPARATORS}"\r\n '


def read_table(
    path: str | os.PathLike[str], kind: str, required: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, cells by column) of a CSV file whose first row is its header.

    Cells are stripped. Rows without text and empty columns without a name are skipped. The header
    decides the separator: comma, semicolon or tab. A byte order mark is ignored. `kind` names the
    file in errors, such as "plan". Raises `InvalidRequest` with the line of an error, and for a
    header without the `required` columns.
    """
    name = f"the {kind} '{os.fspath(path)}'"
    columns: list[str] | None = None
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            start = [file.readline()]
            while start[-1] and not start[-1].strip(_BLANK):
                start.append(file.readline())
            separator = max(_SEPARATORS, key=start[-1].count)  # if several are, the first one
            lines = csv.reader(itertools.chain(start, file), delimiter=separator, strict=True)
            for row in lines:
                cells = [cell.strip() for cell in row]
                where = f"{os.fspath(path)}, line {lines.line_num}"
                if not any(cells):
                    continue
                if columns is None:
                    columns = _head(where, cells)
                    _require(name, required, columns)
                else:
                    yield lines.line_num, _by_column(where, columns, cells)
        if columns is None:
            _require(name, required, [])
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"{name} cannot be read: {first_line(error)}; text in UTF-8 is expected"
        ) from error
    except (OSError, ValueError, csv.Error) as error:
        raise InvalidRequest(f"{name} cannot be read: {first_line(error)}") from error


def _head(where: str, cells: list[str]) -> list[str]:
    for column in filter(None, cells):
        if cells.count(column) > 1:
            raise InvalidRequest(f"{where}: the header has column {excerpt(column)} twice")
    return cells


def _require(name: str, required: Sequence[str], columns: Sequence[str]) -> None:
    missing = [column for column in required if column not in columns]
    if missing:
        raise InvalidRequest(
            f"{name} has no column {', '.join(missing)}; {', '.join(required)} are required"
        )


def _by_column(where: str, columns: Sequence[str], cells: Sequence[str]) -> dict[str, str]:
    for number, cell in enumerate(cells, 1):
        if cell and number > len(columns):
            raise InvalidRequest(f"{where}: the row has more cells than the header has columns")
        if cell and not columns[number - 1]:
            raise InvalidRequest(
                f"{where}: cell {number} is {excerpt(cell)}, but the header has no name for its"
                " column"
            )
    empty = dict.fromkeys(filter(None, columns), "")
    pairs = zip(columns, cells, strict=False)  # a row may be shorter or longer than the header
    return empty | {column: cell for column, cell in pairs if column}
