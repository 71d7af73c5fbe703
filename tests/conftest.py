"""What every test may ask for; each fixture's own module says what it is."""

from __future__ import annotations

import os

import pytest

pytest_plugins = [
    "fixtures.airflow",
    "fixtures.exported",
    "fixtures.varied",
    "fixtures.hub",
    "fixtures.models",
    "fixtures.recipes",
    "fixtures.s3",
    "fixtures.audited",
]


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> object:
    """In CI nothing that is meant to run may be skipped: a service that is missing there is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if os.environ.get("CI") and skipped and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.write_line(f"\n{len(skipped)} skipped, which CI takes for failed", red=True)
    return (yield)
