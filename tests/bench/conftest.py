"""perf_analyzer, or the reason why there is none."""

from __future__ import annotations

import pytest

from bench import perf_analyzer_install


@pytest.fixture(scope="session")
def program() -> list[str]:
    try:
        return perf_analyzer_install.command()
    except perf_analyzer_install.Unavailable as error:
        pytest.skip(str(error))
