"""The corpus: what was fed to the fp32 graphs while they were proven, kept to hold their variants to them.

A sample is one call of one graph with everything that it takes, caches too; so a variant is asked the same questions,
padded batches, odd lengths and cached steps among them, and nothing here has to know what the graphs are for.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

import numpy as np

from onnx_fleet.bundles import stage
from onnx_fleet.graphs.session import Session

Half = Literal["calibration", "judging"]

FOLDER: Final = "corpus"
"""The name of the folder in the private part of a stage."""

_MAX_BYTES = 256 << 20
"""How large all samples of one graph may be; a decoder's caches are most of them."""
_MAX_SAMPLES = 48
_TEXT, _OTHER = "text", "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One call of one graph."""

    role: str
    predicts_next_token: bool
    """Whether its logits foretell the next token of real text."""
    feeds: Mapping[str, np.ndarray]
    """Arrays by the names of the graph's inputs, in its shapes and types."""


class FeedRecorder:
    """Keeps what sessions are fed."""

    def __init__(self, folder: Path, *, predicts_next_token: bool) -> None:
        """Begin an empty corpus.

        Args:
            folder: takes a file a sample; whatever was in it is removed.
            predicts_next_token: whether what is fed is real text, to a model that says how it goes on.
        """
        self._folder = folder
        self._kind = _TEXT if predicts_next_token else _OTHER
        self._samples: dict[str, int] = {}
        self._bytes: dict[str, int] = {}
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    def watch(self, sessions: Mapping[str, Session]) -> None:
        """From now on, keep what is fed to these, by role."""
        for role, session in sessions.items():
            session.on_run = partial(self._take, role)

    def _take(self, role: str, feeds: Mapping[str, np.ndarray]) -> None:
        size = sum(array.nbytes for array in feeds.values())
        count, taken = self._samples.get(role, 0), self._bytes.get(role, 0)
        if count < _MAX_SAMPLES and (not count or taken + size <= _MAX_BYTES):
            np.savez(self._folder / f"{role}-{count:03d}-{self._kind}.npz", **dict(feeds))  # type: ignore[arg-type]  # its names are ours
            self._samples[role], self._bytes[role] = count + 1, taken + size


def folder(stage_dir: Path) -> Path:
    """Return where a stage keeps its corpus; it is never published."""
    return stage_dir / stage.PRIVATE / FOLDER


def read(stage_dir: Path, role: str, half: Half) -> Iterator[Sample]:
    """Yield one half of a graph's samples, one by one: what a variant was tuned on does not judge it.

    They are dealt out in pairs, since a prompt and the step behind it come one after the other. A graph with two
    samples or fewer has all of them in both halves.
    """
    paths = sorted(folder(stage_dir).glob(f"{role}-[0-9]*.npz"))
    chosen = [path for index, path in enumerate(paths) if (index // 2 % 2 == 1) == (half == "judging")]
    for path in chosen or paths:
        with np.load(path) as arrays:
            yield Sample(role=role, predicts_next_token=path.stem.endswith(_TEXT), feeds=dict(arrays))
