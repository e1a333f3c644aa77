"""Assess the quality of a dataset of synthetic volumes: measures, verdicts and a report."""

from __future__ import annotations

from importlib import util

from .._errors import MaisiError

for _name, _module in (("Pillow", "PIL"), ("SciPy", "scipy")):
    if util.find_spec(_module) is None:
        raise MaisiError(
            f"an assessment needs {_name}, which is not installed: pip install"
            " 'maisi-client[assess]'"
        )
