"""Validation of a server's text, JSON and tensors."""

from __future__ import annotations

import json
import math
import os
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ._errors import ServerError, first_line, printable

JSON_BYTES = 1 << 20  # the longest report of the variants is some 40 kB
_DEPTH = 16  # lists and objects within each other; reports and variants have 5
_TEXT = 4096  # characters, as in the longest path of Linux
_DIGITS = 20  # an int64 and its sign
_EXCERPT = 60  # characters of a wrong value in an error
_WORDS = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    dict: "an object",
    list: "a list",
    type(None): "null",
}


def read_json(content: str | bytes) -> dict[str, Any]:
    """Return a JSON object whose texts are printable and whose numbers are finite.

    Raises ValueError for anything else, and for JSON of more than `JSON_BYTES` bytes, 16 levels or
    numbers of 20 digits. Texts are cut to 4096 characters.
    """
    if len(content) > JSON_BYTES:
        raise ValueError(f"it has more than the {JSON_BYTES} bytes that are allowed")
    try:
        value = json.loads(
            content, parse_int=_whole, parse_float=_finite, parse_constant=_no_number
        )
    except RecursionError:
        raise ValueError(f"it is nested deeper than {_DEPTH} levels") from None
    if not isinstance(value, dict):
        raise ValueError(f"it is {_WORDS[type(value)]}; an object is expected")
    clean: dict[str, Any] = _printable(value, _DEPTH)
    return clean


def read_json_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file as `read_json` does, and at most `JSON_BYTES` of it; raises OSError, too."""
    with open(path, "rb") as file:
        return read_json(file.read(JSON_BYTES + 1))


def check_form(subject: str, value: Any, form: Any) -> None:
    """Raise `ServerError` if `value`, called `subject`, does not have the `form`.

    A form is a type; a tuple of types, any of which is allowed; a list of one form for all items,
    or of one for each; an object of forms by key, `key?` if it may be missing; or an object of
    `str` and one form for all values. Other keys of an object are not checked.
    """
    if isinstance(form, dict) and str in form:
        _check_type(subject, value, dict)
        for key, item in value.items():
            check_form(f"{subject}.{key[:_EXCERPT]}", item, form[str])
    elif isinstance(form, dict):
        _check_type(subject, value, dict)
        for key, item_form in form.items():
            name = key.removesuffix("?")
            if name in value:
                check_form(f"{subject}.{name}", value[name], item_form)
            elif name == key:
                raise ServerError(f"{subject} has no '{name}'; one is expected")
    elif isinstance(form, list):
        _check_type(subject, value, list)
        forms = form * len(value) if len(form) == 1 else form
        if len(value) != len(forms):
            raise ServerError(f"{subject} is {excerpt(value)}; {len(forms)} items are expected")
        for number, (item, item_form) in enumerate(zip(value, forms, strict=True)):
            check_form(f"{subject}[{number}]", item, item_form)
    else:
        _check_type(subject, value, form)


def read_tensor(result: Any, name: str, dtype: DTypeLike, rank: int) -> NDArray[Any] | None:
    """Return the output `name` of a message of the answer, None if it has none.

    Raises `ServerError` unless it is of `dtype`, has `rank` axes that are not empty, and the bytes
    that its shape requires.
    """
    try:
        value: NDArray[Any] | None = result.as_numpy(name)
    except Exception as error:  # tritonclient checks nothing, so numpy and struct raise
        why = first_line(error)
        raise ServerError(f"the server's {name} cannot be read: {why}") from None
    if value is None:
        return None
    if value.dtype != dtype or value.ndim != rank or 0 in value.shape:
        raise ServerError(
            f"the server's {name} is {value.dtype} {list(value.shape)};"
            f" {np.dtype(dtype)} with {rank} axes is expected"
        )
    return value


def excerpt(value: Any) -> str:
    """Return a value for an error's sentence, only its beginning if it is long."""
    text = repr(value)
    return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}..."


def _check_type(subject: str, value: Any, types: Any) -> None:
    allowed = types if isinstance(types, tuple) else (types,)
    if type(value) not in allowed and not (type(value) is int and float in allowed):
        expected = " or ".join(_WORDS[one] for one in allowed)
        raise ServerError(f"{subject} is {excerpt(value)}; {expected} is expected")


def _whole(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"it has a number of {len(text)} digits; at most {_DIGITS} are allowed")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("it has a number that exceeds the range of a double")
    return number


def _no_number(name: str) -> float:
    raise ValueError(f"it has {name}, which is not a number of JSON")


def _printable(value: Any, depth: int) -> Any:
    """Return the value with printable texts; raises ValueError where it is too deep."""
    if isinstance(value, str):
        return printable(value, _TEXT)
    if not isinstance(value, (dict, list)):
        return value
    if depth == 0:
        raise ValueError(f"it is nested deeper than {_DEPTH} levels")
    if isinstance(value, list):
        return [_printable(item, depth - 1) for item in value]
    return {printable(key, _TEXT): _printable(item, depth - 1) for key, item in value.items()}
