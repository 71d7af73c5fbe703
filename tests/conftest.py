"""What every test may ask for; each fixture's own module says what it is."""

from __future__ import annotations

import os
from pathlib import Path

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


LONGEST_FIRST = (
    "consumers/test_loading.py",
    "test_airflow_runs.py",
    "test_architectures.py",
    "test_mutations.py",
    "test_demo.py",
    "test_export.py",
    "test_audit.py",
    "test_cache.py",
    "test_seq2seq.py",
    "test_regression.py",
    "test_unrolling.py",
    "test_variants.py",
    "test_recipes.py",
    "test_benchmarks.py",
)
"""A file's tests stay on one worker: one that begins with a minutes' work last leaves the others idle."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest; within a file nothing changes places."""
    tests = Path(__file__).parent
    places = {tests / name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> object:
    """In CI nothing that is meant to run may be skipped: a service that is missing there is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if os.environ.get("CI") and skipped and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.write_line(f"\n{len(skipped)} skipped, which CI takes for failed", red=True)
    return (yield)
