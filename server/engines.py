"""What each variant runs on, as its networks say among Triton's metrics."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

# As `publish` of backends/engines/choice.py writes them.
_NETWORK = re.compile(r"^maisi_network_engine{(.*)} 1$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def listed(metrics: str, variants: Sequence[str]) -> str:
    """Return each variant's engines for the line that says ready: mini:OpenVINO/CPU."""
    engines: dict[str, set[str]] = {variant: set() for variant in variants}
    for labels in _networks(metrics):
        variant = labels["model"].rpartition(".")[0]
        if variant in engines:
            engines[variant].add(f"{labels['engine']}/{labels['device'].replace(' ', '')}")
    return ",".join(f"{variant}:{'+'.join(sorted(on))}" for variant, on in engines.items())


def unused(metrics: str) -> list[str]:
    """Return why a GPU that is here computes nothing, a sentence a reason."""
    reasons: dict[str, list[str]] = {}
    for labels in _networks(metrics):
        if labels["unused"]:
            reasons.setdefault(labels["unused"], []).append(labels["model"])
    return [
        f"{', '.join(sorted(models))} run on the CPU: {reason}"
        for reason, models in reasons.items()
    ]


def _networks(metrics: str) -> Iterator[dict[str, str]]:
    for line in _NETWORK.findall(metrics):
        yield {name: re.sub(r"\\(.)", r"\1", value) for name, value in _LABEL.findall(line)}
