"""The mini variant as its server knows it."""

from typing import Any

import pytest

from export import variant


@pytest.fixture(scope="session")
def mini() -> dict[str, Any]:
    """Return the JSON that config.pbtxt publishes as `variant`."""
    return variant.load("mini").parameter({"autoencoder": "0" * 64})
