"""Bundles, and the tools that load them. `make test-consumers` installs the tools and says where they are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import numpy as np
import pytest

from consumers import documented
from consumers.cases import NODE, WASM, Case
from consumers.loading import INSTALLED, Answered, Bundles, Consumers, worst

# Without the tools nothing here can run, and `make test` does not install them.
collect_ignore = [] if "CONSUMERS" in os.environ else ["test_loading.py", "test_genai.py"]


@pytest.fixture(scope="session")
def bundles(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundles]:
    """One bundle a case, for the tests that were asked for."""
    needed = {case.name: case for case, _ in _collected(request)}
    made = Bundles(tmp_path_factory.mktemp("bundles"), needed.values())
    yield made
    made.close()


@pytest.fixture(scope="session")
def consumers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consumers]:
    """The tools that the tests asked for."""
    running = Consumers(tmp_path_factory.mktemp("consumers"), {name for _, name in _collected(request)})
    yield running
    running.close()


@pytest.fixture(scope="session")
def answered(request: pytest.FixtureRequest, bundles: Bundles, consumers: Consumers) -> Answered:
    """The page's lines, run on all inputs of a case together and on each one alone."""
    case, consumer = request.param
    if consumer in (NODE, WASM) and not (shutil.which("node") and (INSTALLED / "node" / "node_modules").is_dir()):
        pytest.skip("transformers.js needs Node and npm: install them, then run make test-consumers again")
    block = documented.blocks()[consumer, case.blocks[consumer]]
    folder = bundles.folder(case)
    count = len(next(iter(case.given.values())))
    expected = [dict(np.load(folder / f"expected-{index}.npz")) for index in range(count)]
    given = dict(case.given)
    for name in expected[0]:
        if name.startswith("given_"):  # what the model itself takes, for consumers without a preprocessor
            given[name.removeprefix("given_")] = [one[name].tolist() for one in expected]
    singles = [{name: [values[index]] for name, values in given.items()} for index in range(count)]
    if consumer in case.one_by_one:
        return Answered(
            block=block,
            variant=case.variant,
            expected=expected,
            batch=None,
            alone=consumers.run(block, folder, singles),
        )
    batch, *alone = consumers.run(block, folder, [given, *singles])
    return Answered(block=block, variant=case.variant, expected=expected, batch=batch, alone=alone)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The figures that docs/consumers.md quotes."""
    if worst:
        terminalreporter.section("worst differences from PyTorch")
        for (consumer, block), difference in sorted(worst.items()):
            terminalreporter.write_line(f"{consumer:24} {block:28} {difference:.1e}")


def _collected(request: pytest.FixtureRequest) -> list[tuple[Case, str]]:
    specs = (getattr(item, "callspec", None) for item in request.session.items)
    return [spec.params["answered"] for spec in specs if spec is not None and "answered" in spec.params]
