"""What Kueue's CustomResourceDefinitions, version v1beta2, demand of the fields that we use.

Written from config/components/crd/bases of github.com/kubernetes-sigs/kueue of August 2026, since
no registry has the schemas. Fields that are not here are refused.
"""

from __future__ import annotations

from typing import Any

_NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
_QUANTITY = (
    r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))"
    r"(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"
)


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": required,
        "properties": properties,
        "additionalProperties": False,
    }


def _list(items: dict[str, Any], most: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": most}


_REFERENCE = {"type": "string", "maxLength": 253, "pattern": _NAME}
_LABELS = {"type": "object", "additionalProperties": {"type": "string"}}
_RESOURCE = _object(
    ["name", "nominalQuota"],
    name={"type": "string"},
    nominalQuota={"type": ["integer", "string"], "pattern": _QUANTITY},
)
_GROUP = _object(
    ["coveredResources", "flavors"],
    coveredResources=_list({"type": "string"}, 64),
    flavors=_list(
        _object(["name", "resources"], name=_REFERENCE, resources=_list(_RESOURCE, 64)), 64
    ),
)
_SPECS = {
    "ResourceFlavor": _object([], nodeLabels={**_LABELS, "maxProperties": 8}),
    "ClusterQueue": _object(
        [],
        namespaceSelector=_object([], matchLabels=_LABELS),
        resourceGroups={"type": "array", "items": _GROUP, "maxItems": 16},
    ),
    "LocalQueue": _object(["clusterQueue"], clusterQueue=_REFERENCE),
}
NAMESPACED = {"LocalQueue"}
SCHEMAS = {
    kind: _object(
        ["apiVersion", "kind", "metadata"],
        apiVersion={"const": "kueue.x-k8s.io/v1beta2"},
        kind={"const": kind},
        metadata=_object(
            ["name", "namespace"] if kind in NAMESPACED else ["name"],
            name=_REFERENCE,
            **({"namespace": _REFERENCE} if kind in NAMESPACED else {}),
        ),
        spec=spec,
    )
    for kind, spec in _SPECS.items()
}
