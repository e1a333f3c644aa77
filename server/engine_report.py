"""Report the engine of each network, from the metric `maisi_network_engine`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

# The format of `publish` in backends/engines/choice.py.
_NETWORK = re.compile(r"^maisi_network_engine{(.*)} 1$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def engines(metrics: str, variants: Sequence[str]) -> str:
    """Return the engines of each variant in the form of the ready line: `mini:OpenVINO/CPU`."""
    names: dict[str, set[str]] = {variant: set() for variant in variants}
    for labels in _networks(metrics):
        variant = labels["model"].rpartition(".")[0]
        if variant in names:
            names[variant].add(f"{labels['engine']}/{labels['device'].replace(' ', '')}")
    return ",".join(f"{variant}:{'+'.join(sorted(names[variant]))}" for variant in names)


def unused_gpus(metrics: str) -> list[str]:
    """Return the reasons why a GPU of this machine is not used, one sentence each."""
    models: dict[str, list[str]] = {}
    for labels in _networks(metrics):
        if reason := labels["unused"]:
            models.setdefault(reason, []).append(labels["model"])
    return [f"{', '.join(sorted(models[reason]))} run on the CPU: {reason}" for reason in models]


def _networks(metrics: str) -> Iterator[dict[str, str]]:
    for line in _NETWORK.findall(metrics):
        yield {name: re.sub(r"\\(.)", r"\1", value) for name, value in _LABEL.findall(line)}
