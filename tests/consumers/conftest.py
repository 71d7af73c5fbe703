"""Bundles, and the tools that load them. `make test-consumers` installs the tools and says where they are."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from consumers import documented
from consumers.cases import CASES, FASTEMBED, NODE, OPTIMUM, RAW, SENTENCES, WASM, Case
from consumers.documented import Block
from consumers.running import Server

INSTALLED = Path(os.environ.get("CONSUMERS", "")).resolve()

# Without the tools nothing here can run, and `make test` does not install them.
collect_ignore = [] if "CONSUMERS" in os.environ else ["test_loading.py"]

_HERE = Path(__file__).parent
_TESTS, _LIBRARY = _HERE.parent, _HERE.parents[1] / "include"
_TORCH_FREE = "torch,transformers,optimum,sentence_transformers,fastembed,onnx,onnx_fleet"
_PYTHON = {
    RAW: (Path(sys.executable), "numpy,onnxruntime,tokenizers", _TORCH_FREE),
    OPTIMUM: (INSTALLED / "bin" / "python", "optimum.onnxruntime", ""),
    SENTENCES: (INSTALLED / "bin" / "python", "sentence_transformers,optimum.onnxruntime", ""),
    FASTEMBED: (INSTALLED / "bin" / "python", "fastembed", "torch,transformers"),
}
_MAKERS = 2

Answers = dict[str, np.ndarray]

worst: dict[tuple[str, str], float] = {}
"""(consumer, block) -> the largest difference from PyTorch that was seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What one consumer said of one bundle."""

    block: Block
    expected: list[Answers]
    """PyTorch's, for each input by itself, without the batch axis."""
    batch: Answers | None
    """All inputs together; None where the consumer takes no batches of them."""
    alone: list[Answers]
    """Each input as a batch of one."""


class Bundles:
    """Exports what the collected tests need, two at a time, and lets them wait for theirs."""

    def __init__(self, root: Path, names: list[str]) -> None:
        self.root = root
        self._makers = [self._maker(number) for number in range(_MAKERS)]
        self._idle = list(self._makers)
        self._pool = ThreadPoolExecutor(_MAKERS)
        self._made: dict[str, Future[Path]] = {name: self._pool.submit(self._make, name) for name in names}

    def folder(self, case: Case) -> Path:
        """Where ``bundle/`` and the expected answers of a case lie."""
        return self._made[case.name].result()

    def close(self) -> None:
        """Stop, whatever is still being made."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for maker in self._makers:
            maker.close()

    def _maker(self, number: int) -> Server:
        environment = {
            **_offline(),
            "PYTHONPATH": os.pathsep.join(map(str, (_TESTS, _LIBRARY))),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "consumers.maker"]
        return Server(command, log=self.root / f"maker-{number}.log", environment=environment)

    def _make(self, name: str) -> Path:
        maker = self._idle.pop()
        try:
            folder = self.root / name
            folder.mkdir()
            maker.ask({"case": name, "folder": str(folder)})
        finally:
            self._idle.append(maker)
        return folder


class Consumers:
    """Runs blocks of the page, each in its consumer's own process."""

    def __init__(self, root: Path, names: set[str]) -> None:
        self._root = root
        self._servers = {name: self._server(name) for name in _PYTHON if name in names}

    def run(self, block: Block, folder: Path, given: list[dict[str, list[object]]]) -> list[Answers]:
        """The variables that the block promises, after running it on each of ``given``."""
        suffix = "npz" if block.consumer in self._servers else "json"
        files = [folder / f"{block.consumer}-{block.name}-{index}.{suffix}" for index in range(len(given))]
        runs = [{"given": one, "answers": str(file)} for one, file in zip(given, files, strict=True)]
        job = {"folder": str(folder), "gives": block.gives, "runs": runs, "block": block.code}
        if block.consumer in self._servers:
            title = f"docs/consumers.md, {block.consumer} / {block.name}"
            self._servers[block.consumer].ask({**job, "title": title})
            return [dict(np.load(file)) for file in files]
        self._node(block, job, folder / f"{block.consumer}-{block.name}-job.json")
        return [_from_json(file) for file in files]

    def close(self) -> None:
        """End the processes."""
        for server in self._servers.values():
            server.close()

    def _server(self, name: str) -> Server:
        python, preloaded, forbidden = _PYTHON[name]
        command = [python, _HERE / "python_consumer.py", preloaded, forbidden]
        environment = {**_offline(), "HF_HOME": str(self._root / "no-cache")}
        return Server(command, log=self._root / f"{name}.log", environment=environment)

    def _node(self, block: Block, job: dict[str, object], file: Path) -> None:
        packages = str(INSTALLED / "node" / "node_modules")
        file.write_text(json.dumps({**job, "packages": packages, "web": block.consumer == WASM}))
        done = subprocess.run(
            [
                "node",
                *(["--liftoff-only"] if block.consumer == WASM else []),
                str(_HERE / "node_consumer.mjs"),
                str(file),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


@pytest.fixture(scope="session")
def bundles(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundles]:
    """One bundle a case, for the tests that were asked for."""
    needed = dict.fromkeys(case.name for case, _ in _collected(request))
    made = Bundles(tmp_path_factory.mktemp("bundles"), list(needed))
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
        return Answered(block=block, expected=expected, batch=None, alone=consumers.run(block, folder, singles))
    batch, *alone = consumers.run(block, folder, [given, *singles])
    return Answered(block=block, expected=expected, batch=batch, alone=alone)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The figures that docs/consumers.md quotes."""
    if worst:
        terminalreporter.section("worst differences from PyTorch")
        for (consumer, block), difference in sorted(worst.items()):
            terminalreporter.write_line(f"{consumer:24} {block:28} {difference:.1e}")


def rows() -> list[pytest.ParameterSet]:
    """Every bundle with every consumer that takes it."""
    return [pytest.param((case, consumer), id=f"{case.name}-{consumer}") for case in CASES for consumer in case.blocks]


def _collected(request: pytest.FixtureRequest) -> list[tuple[Case, str]]:
    specs = (getattr(item, "callspec", None) for item in request.session.items)
    return [spec.params["answered"] for spec in specs if spec is not None and "answered" in spec.params]


def _offline() -> dict[str, str]:
    """Everything that is needed lies in the bundle; whoever asks the Hub for more fails."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore", "TOKENIZERS_PARALLELISM": "false"}


def _from_json(file: Path) -> Answers:
    return {
        name: np.array(value["data"]).reshape(value["dims"]) for name, value in json.loads(file.read_text()).items()
    }
