"""The rows of a dataset, their variants, and the modalities and labels that follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..._errors import InvalidRequest
from ..._variant import Variant
from ..row import Row


@dataclass(frozen=True)
class Summary:
    """The rows of a dataset, their variants, and the channels; empty if each row has one."""

    folder: Path
    rows: Sequence[Row]
    variants: Mapping[str | None, Variant]  # by the name in the row; None for a row without one
    channels: Sequence[str]

    def row_modalities(self, row: Row) -> Sequence[str]:
        """Return the modalities that the server will use for a row."""
        if self.channels:
            return self.channels
        arguments = row.arguments
        variant = self.variants[arguments.get("variant")]
        preset = variant.presets.get(str(arguments.get("preset")), {})
        modality = arguments.get("modality") or preset.get("modality")
        return [str(modality or variant.defaults["modality"])]

    @property
    def modalities(self) -> list[str]:
        """The modalities of all rows."""
        return sorted({name for row in self.rows for name in self.row_modalities(row)})

    @property
    def licence(self) -> str:
        """The licences of the weights."""
        return ", ".join(sorted({variant.license for variant in self.variants.values()}))

    @property
    def labels(self) -> dict[int, str]:
        """The names of the labels that the masks may have, by MAISI's ids.

        These are the labels in `organs` if every row has `organs`, otherwise all labels.
        """
        table = {k: v for variant in self.variants.values() for k, v in variant.labels.items() if k}
        kept_ids: set[int] = set()
        ids = {name.lower(): id_ for id_, name in table.items()}
        for row in self.rows:
            organs = row.arguments.get("organs")
            if not organs:
                return dict(sorted(table.items()))
            words = organs.split(",") if isinstance(organs, str) else organs
            for word in (str(word).strip().lower() for word in words):
                kept_ids.add(int(word) if word.isdigit() else ids.get(word, 0))
        return {id_: name for id_, name in sorted(table.items()) if id_ in kept_ids}

    def channel_names(self) -> dict[str, str]:
        """Return the names of an image's channels by number; a trainer normalises by these names.

        The name is `CT` for CT, because nnU-Net expects it. For MR it is the modality if there are
        `channels`, otherwise `MRI`. Raises `InvalidRequest` if one channel would be CT in some rows
        and MR in others.
        """
        if self.channels:
            return {
                str(number): "CT" if is_ct(name) else name
                for number, name in enumerate(self.channels)
            }
        kinds = {"CT" if is_ct(name) else "MRI" for name in self.modalities}
        if len(kinds) > 1:
            raise InvalidRequest(
                "the plan has CT and MR; all rows of a channel must be one of them"
            )
        return {"0": kinds.pop()}


def is_ct(modality: str) -> bool:
    """Return whether a modality is CT; all others are MR."""
    return modality.startswith("ct")
