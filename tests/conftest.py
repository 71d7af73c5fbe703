"""What every test may ask for; each fixture's own module says what it is."""

from __future__ import annotations

import gc
import os
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

import pytest

pytest_plugins = [
    "fixtures.shared",
    "fixtures.airflow",
    "fixtures.exported",
    "fixtures.varied",
    "fixtures.hub",
    "fixtures.models",
    "fixtures.mlflow_server",
    "fixtures.oci_registry",
    "fixtures.photos",
    "fixtures.recipes",
    "fixtures.s3",
    "fixtures.small_hub",
    "fixtures.audited",
]


class WithoutTorch(MetaPathFinder):
    """Makes torch look as if it were not installed: seconds of imports that most rooms do without."""

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("torch is not to be needed here: this run is one --without-torch", name=name)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--without-torch", action="store_true", help="fail every test that imports torch")
    parser.addoption("--torture", action="store_true", help="take minutes over the faults of tests/reliability")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--without-torch"):
        sys.meta_path.insert(0, WithoutTorch())


LONGEST_FIRST = (
    "stack/test_stack.py",
    "demo/test_demo.py",
    "validation/test_mutations.py",
    "deploy/test_pods.py",
    "airflow/test_dag_runs.py",
    "consumers/test_loading.py",
    "cli/test_cli.py",
    "docs/test_architectures.py",
    "export/test_exporter.py",
    "runs/test_audit.py",
    "export/test_cache.py",
    "validation/test_seq2seq.py",
    "measurement/test_regression.py",
    "export/test_layer_replication.py",
    "variants/test_variants.py",
    "export/test_recipes.py",
    "docs/test_benchmarks.py",
)
"""A file's tests stay on one worker: one that begins with a minutes' work last leaves the others idle."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest; within a file nothing changes places."""
    tests = Path(__file__).parent
    places = {tests / name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


_MODULES = pytest.StashKey[int]()


@pytest.hookimpl(trylast=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """What was imported is no garbage: a validation looks for what it has dropped, half a second among all of torch.

    The processes that the product forks leave it out in the same way.
    """
    imported = len(sys.modules)
    if imported > item.config.stash.get(_MODULES, 0) + 100:
        gc.collect()
        gc.freeze()
        item.config.stash[_MODULES] = imported


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> object:
    """In CI nothing that is meant to run may be skipped: a service that is missing there is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if os.environ.get("CI") and skipped and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.write_line(f"\n{len(skipped)} skipped, which CI takes for failed", red=True)
    return (yield)
