"""What a dataset's card and its metadata say of it, from the reports of its cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .cases import Case
from .layouts.layout import DESCRIPTION

_WARNINGS = 10  # the most frequent ones are listed


@dataclass(frozen=True, order=True)
class Weights:
    """The weights of a network: its variant, their licence, and their SHA-256."""

    variant: str
    license: str
    network: str
    sha256: str


@dataclass(frozen=True)
class Facts:
    """A dataset's finished cases, and the numbers of rows that are none.

    `unfaithful` rows have volumes that do not follow their masks, `failed` ones have none.
    """

    name: str
    layout: str
    cases: Sequence[Case]
    unfaithful: int
    failed: int

    @property
    def groups(self) -> int:
        """The number of anatomies."""
        return len({case.group for case in self.cases})

    @property
    def description(self) -> str:
        """What the dataset is, in three sentences."""
        return (
            f"{DESCRIPTION} {len(self.cases)} cases of {self.groups} anatomies, in the layout"
            f" '{self.layout}'."
        )

    @property
    def modalities(self) -> dict[str, int]:
        """The number of volumes of each modality."""
        names = Counter(name for case in self.cases for name in case.modalities)
        return dict(sorted(names.items()))

    @property
    def weights(self) -> dict[Weights, int]:
        """The number of volumes that each network's weights made."""
        used = Counter(
            Weights(content["variant"], content.get("weights_license", ""), network, sha256)
            for case in self.cases
            for content in case.contents
            for network, sha256 in content["weights"].items()
        )
        return dict(sorted(used.items()))

    @property
    def licenses(self) -> list[str]:
        """The licences of the weights, and the terms of the data that plans were drawn from."""
        contents = [content for case in self.cases for content in case.contents]
        of_weights = {content.get("weights_license", "") for content in contents}
        of_plans = {content.get("plan_license", "") for content in contents}
        return [*sorted(of_weights - {""}), *sorted(of_plans - {""} - of_weights)]

    @property
    def mask_origins(self) -> dict[str, int]:
        """The number of cases by the origin of their masks."""
        origins = Counter(_mask_origin(case) for case in self.cases)
        return dict(sorted(origins.items()))

    @property
    def limits(self) -> list[str]:
        """The limits of a use of the dataset, a sentence each."""
        warnings = Counter(
            warning
            for case in self.cases
            for content in case.contents
            for warning in content.get("warnings", [])
        )
        frequent = sorted(warnings.items(), key=lambda item: (-item[1], item[0]))[:_WARNINGS]
        return [
            "All volumes are synthetic: not for diagnosis or treatment, and no evidence about"
            " patients.",
            "A label says what its volume was asked to show. Whether the volume follows it was"
            " measured by grey levels and borders alone, so smaller errors remain.",
            f"There are {self.groups} anatomies: more cases of an anatomy vary its contrast and"
            " texture, not its shape. Split by the column group.",
            "Grey levels are Hounsfield units for CT, and 0 to 1000 without a unit for MR.",
            *(
                f"The server warned {times} times: {warning.rstrip('.')}."
                for warning, times in frequent
            ),
        ]

    @property
    def set_aside(self) -> str:
        """What was asked for and is no case, in two sentences."""
        return (
            f"Rows whose volume does not follow its mask: {self.unfaithful}; their files are in"
            f" unfaithful/. Rows that failed: {self.failed}; failed/ has the errors."
        )


MASKS_OF_PEOPLE = (
    "Masks that were given may have been drawn on scans of people. Their terms are not known to the"
    " program that made this dataset; who passes it on has to add them."
)


def _mask_origin(case: Case) -> str:
    content = case.contents[0]
    if not case.labels:
        return "none: an image alone"
    if content.get("anatomy"):
        return "made by the variant's mask networks"
    if content.get("augmented"):
        return "given, and augmented by the server"
    return "given"
