"""The names of the modalities of a run: a plan may have class codes of the variant instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from .._errors import InvalidRequest
from .._validation import excerpt
from .._variant import Variant, choose_variant
from .row import Row

Variants = Callable[[], Mapping[str, Variant]]


def named_modalities(rows: Sequence[Row], variants: Variants) -> list[Row]:
    """Return the rows, with the name of its modality in a row that has a class code.

    A server's report has the name, and the layouts need it. `variants` asks a server, and is called
    only for a code. An unknown code stays, because its request will be refused.
    """
    return [_named(row, variants) for row in rows]


def named_channels(
    channels: Sequence[str], rows: Sequence[Row], variants: Variants
) -> Sequence[str]:
    """Return the names of the channels, of which some may be class codes.

    Raises `InvalidRequest` for a repeated or empty channel, for a code that a variant of the rows
    does not have, and for a row that has a modality of its own.
    """
    if isinstance(channels, str) or not all(channels):
        raise _not_different(channels)
    texts = [str(channel) for channel in channels]
    names = [_channel(text, rows, variants) if text.isdecimal() else text for text in texts]
    if len(set(names)) < len(names):
        raise _not_different(channels)
    for row in rows if channels else ():
        if row.arguments.get("modality") is not None:
            raise InvalidRequest(
                f"row '{row.name}' has the modality '{row.arguments['modality']}'; no modality is"
                " expected with channels, which are the modalities of every row"
            )
    return names


def _not_different(channels: Sequence[str]) -> InvalidRequest:
    return InvalidRequest(
        f"channels are {channels!r}; different modalities are expected, such as mri_t1, mri_flair"
    )


def _named(row: Row, variants: Variants) -> Row:
    code = str(row.arguments.get("modality"))
    variant = row.arguments.get("variant")
    if not code.isdecimal():
        return row
    try:
        name = _name(code, choose_variant(variant, variants()))
    except InvalidRequest:  # the variant is unknown; the request of the row will report it
        name = None
    return row if name is None else replace(row, arguments={**row.arguments, "modality": name})


def _channel(code: str, rows: Sequence[Row], variants: Variants) -> str:
    """Return the name that a code has in every variant of the rows."""
    names = set()
    for variant_name in {row.arguments.get("variant") for row in rows}:
        variant = choose_variant(variant_name, variants())
        if (name := _name(code, variant)) is None:
            known = ", ".join(f"{name} ({number})" for name, number in variant.modalities.items())
            raise InvalidRequest(f"channels: {excerpt(code)} is not one of {known}")
        names.add(name)
    if len(names) > 1:
        raise InvalidRequest(
            f"channels: {excerpt(code)} is {' and '.join(sorted(names))} in the variants of the"
            " rows; a name is expected"
        )
    return names.pop() if names else code


def _name(code: str, variant: Variant) -> str | None:
    return next((name for name, number in variant.modalities.items() if code == str(number)), None)
