"""The card of a dataset, `README.md`, with the front matter that Hugging Face reads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from .cases import CASES, columns
from .facts import MASKS_OF_PEOPLE, Facts

# https://github.com/huggingface/hub-docs/blob/main/datasetcard.md
_SIZES = ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"))


def card(facts: Facts) -> str:
    """Return the card: weights, licences, origins of the masks, limits, and rejected rows."""
    parts = [
        _front_matter(facts),
        f"# {facts.name}",
        facts.description,
        table(("modality", "volumes"), facts.modalities.items()),
        "## Weights",
        table(
            ("variant", "network", "SHA-256", "volumes"),
            [(w.variant, w.network, f"`{w.sha256}`", times) for w, times in facts.weights.items()],
        ),
        "## Licences",
        _list(
            [
                *(f"Weights of {variant}: {terms}" for variant, terms in _terms(facts)),
                *(f"Plan: {terms}" for terms in _plan_terms(facts)),
                MASKS_OF_PEOPLE,
            ]
        ),
        "## Origin of the masks",
        table(("mask", "cases"), facts.mask_origins.items()),
        "## Splits",
        f"Cases with the same `group` in `{CASES}` show one anatomy, for example because they have"
        " the same mask or source. Keep them on one side of a split. Otherwise a network is"
        " validated on anatomies from its training data." + _nnunet_splits(facts),
        "## Limits",
        _list(facts.limits),
        "## Unfaithful and failed rows",
        facts.set_aside,
        "## Files",
        f"`{CASES}` has a line for each case, with the columns"
        f" {', '.join(f'`{column}`' for column in columns(facts.cases))}. `croissant.json` has the"
        " metadata of the dataset. Each report describes how its volume was made;"
        " `maisi reproduce REPORT` makes the volume again. Every run of `maisi dataset` overwrites"
        f" `{CASES}`, `croissant.json` and this card.",
    ]
    return "\n\n".join(part for part in parts if part)


def _front_matter(facts: Facts) -> str:
    # Names may have characters that YAML interprets. JSON quotes them, and JSON is valid YAML.
    labelled = any(case.labels for case in facts.cases)
    kinds = sorted({"ct" if name.startswith("ct") else "mri" for name in facts.modalities})
    size = next((text for most, text in _SIZES if len(facts.cases) < most), "n>1M")
    fields = {
        # The licences of the user's masks are unknown, so the whole dataset has no known licence.
        "license": "other",
        "license_name": "-and-".join(_license_id(terms) for terms in facts.licenses) or "unknown",
        "pretty_name": facts.name,
        "tags": ["medical", "synthetic", "nifti", "maisi", *kinds],
        "task_categories": ["image-segmentation"] if labelled else [],
        "size_categories": [size],
        "configs": [{"config_name": "default", "data_files": CASES}],
    }
    lines = [f"{key}: {json.dumps(value)}" for key, value in fields.items() if value]
    return "\n".join(["---", *lines, "---"])


def _license_id(terms: str) -> str:
    """Return the terms up to the first comma, in characters that Hugging Face allows here."""
    return re.sub(r"[^a-z0-9.]+", "-", terms.partition(",")[0].lower()).strip("-")


def _terms(facts: Facts) -> list[tuple[str, str]]:
    return sorted(
        {(one.variant, one.license or "not stated by the server") for one in facts.weights}
    )


def _plan_terms(facts: Facts) -> list[str]:
    of_weights = {one.license for one in facts.weights}
    return [terms for terms in facts.licenses if terms not in of_weights]


def _nnunet_splits(facts: Facts) -> str:
    if facts.layout != "nnunet":
        return ""
    if facts.groups < 2:
        return " A split needs two anatomies, so train nnU-Net's fold `all`."
    return " `splits_final.json` keeps them together in each of nnU-Net's five folds."


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|")


def _list(items: list[str]) -> str:
    return "\n".join(f"- {item}" for item in items)
