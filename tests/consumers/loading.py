"""Bundles being made, consumers running the page's lines on them, and what they answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from consumers.cases import FASTEMBED, OPTIMUM, RAW, SENTENCES, WASM, Case
from consumers.documented import Block
from consumers.running import Server

INSTALLED = Path(os.environ.get("CONSUMERS", "")).resolve()
"""Where `make test-consumers` has put the tools."""

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
    variant: str
    """Empty of fp32."""
    expected: list[Answers]
    """PyTorch's, for each input by itself, without the batch axis."""
    batch: Answers | None
    """All inputs together; None where the consumer takes no batches of them."""
    alone: list[Answers]
    """Each input as a batch of one."""


class Bundles:
    """Exports what the collected tests need, two at a time, and lets them wait for theirs."""

    def __init__(self, root: Path, cases: Iterable[Case]) -> None:
        self.root = root
        self._makers = [self._maker(number) for number in range(_MAKERS)]
        self._idle = list(self._makers)
        self._pool = ThreadPoolExecutor(_MAKERS)
        together: dict[str, list[str]] = {}
        for case in cases:  # what is made of one repo of the demo's is exported and proven once
            together.setdefault(case.repo or case.name, []).append(case.name)
        self._made: dict[str, Future[None]] = {}
        for names in together.values():
            self._made |= dict.fromkeys(names, self._pool.submit(self._make, names))

    def folder(self, case: Case) -> Path:
        """Where ``bundle/`` and the expected answers of a case lie."""
        self._made[case.name].result()
        return self.root / case.name

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

    def _make(self, names: list[str]) -> None:
        maker = self._idle.pop()
        try:
            maker.ask({"cases": " ".join(names), "folder": str(self.root)})
        finally:
            self._idle.append(maker)


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


def _offline() -> dict[str, str]:
    """Everything that is needed lies in the bundle; whoever asks the Hub for more fails."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore", "TOKENIZERS_PARALLELISM": "false"}


def _from_json(file: Path) -> Answers:
    return {
        name: np.array(value["data"]).reshape(value["dims"]) for name, value in json.loads(file.read_text()).items()
    }
