"""Croissant metadata of a dataset, https://docs.mlcommons.org/croissant/docs/croissant-spec.html.

Limits and origins use the terms of the extension for responsible AI,
https://docs.mlcommons.org/croissant/docs/croissant-rai-spec.html.
"""

from __future__ import annotations

import hashlib
from typing import Any

from .cases import CASES, cases_table, columns
from .facts import MASKS_OF_PEOPLE, Facts

_URLS = {"Apache-2.0": "https://spdx.org/licenses/Apache-2.0"}
_OF_CROISSANT = (
    *("citeAs", "column", "equivalentProperty", "extract", "field", "fileObject", "fileProperty"),
    *("fileSet", "format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField"),
    *("path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate"),
    *("separator", "source", "subField", "transform"),
)
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{name: f"cr:{name}" for name in _OF_CROISSANT},
}


def croissant(facts: Facts) -> dict[str, Any]:
    """Return the metadata of a dataset, with the fields of `cases.csv` as its record set."""
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": facts.name,
        "description": facts.description,
        "conformsTo": [
            "http://mlcommons.org/croissant/1.0",
            "http://mlcommons.org/croissant/RAI/1.0",
        ],
        "license": [_URLS.get(terms, terms) for terms in facts.licenses],
        "keywords": ["medical", "synthetic", *facts.modalities],
        "isBasedOn": [
            {
                "@type": "sc:MediaObject",
                "name": f"weights of {one.network} of {one.variant}",
                "sha256": one.sha256,
                "license": _URLS.get(one.license, one.license),
            }
            for one in facts.weights
        ],
        "rai:dataCollection": "Number of cases by the origin of the mask: "
        + "; ".join(f"{origin}: {cases}" for origin, cases in facts.mask_origins.items()),
        "rai:dataCollectionMissingData": facts.set_aside,
        "rai:dataLimitations": facts.limits,
        "rai:personalSensitiveInformation": MASKS_OF_PEOPLE,
        "distribution": [_table_file(facts), *_file_sets(facts)],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "cases",
                "name": "cases",
                "key": {"@id": "cases/name"},
                "field": [_field(column) for column in columns(facts.cases)],
            }
        ],
    }


def _table_file(facts: Facts) -> dict[str, Any]:
    content = cases_table(facts.cases).encode()
    return {
        "@type": "cr:FileObject",
        "@id": CASES,
        "name": CASES,
        "contentUrl": CASES,
        "encodingFormat": "text/csv",
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def _file_sets(facts: Facts) -> list[dict[str, Any]]:
    sets = {
        "images": ("application/gzip", [path for case in facts.cases for path in case.images]),
        "labels": ("application/gzip", [case.labels for case in facts.cases if case.labels]),
        "reports": ("application/json", [path for case in facts.cases for path in case.reports]),
    }
    return [
        {
            "@type": "cr:FileSet",
            "@id": name,
            "name": name,
            "encodingFormat": kind,
            "includes": _pattern(paths),
        }
        for name, (kind, paths) in sets.items()
        if paths
    ]


def _pattern(paths: list[str]) -> str:
    """Return a pattern for the paths of a layout, with `*` for names and folders that differ."""
    parts = [path.split("/") for path in paths]
    folders = [
        names.pop() if len(names := {part[depth] for part in parts}) == 1 else "*"
        for depth in range(len(parts[0]) - 1)
    ]
    name = "*.nii.gz" if parts[0][-1].endswith(".nii.gz") else "*.json"
    return "/".join([*folders, name])


def _field(column: str) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"cases/{column}",
        "name": column,
        "dataType": "sc:Integer" if column == "seed" else "sc:Text",
        "source": {"fileObject": {"@id": CASES}, "extract": {"column": column}},
    }
