"""Whether the tests of faults take their time: pytest --torture, as make torture runs them."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def torture(pytestconfig: pytest.Config) -> bool:
    """Whether to take the minutes that CI does not have."""
    return bool(pytestconfig.getoption("--torture"))
