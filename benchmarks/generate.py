"""Tokens per second of our graphs and of optimum's, under one plain onnxruntime loop.

    python -m benchmarks.generate [--runs 5] [--new-tokens 64] [NAME ...]

Greedy, one row, the same prompt and threads; both sides' sessions live in one process and take turns in blocks, since
onnxruntime's threads keep spinning for a while after a call. The loop feeds arrays and takes arrays, as all plain users
of onnxruntime do.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import checkpoints, machine, options, results, workplace
from benchmarks.checkpoints import Checkpoint
from benchmarks.results import GenerateResult, GenerateRun, Spread, Subject
from benchmarks.tables import table
from benchmarks.workplace import Workplace
from onnx_fleet.graphs import session
from onnx_fleet.processes.hardware import usable_cores

if TYPE_CHECKING:
    import numpy as np

    from onnx_fleet.graphs.session import Session

AT_LEAST = 1.0
"""Our tokens per second, by optimum's."""

_WARM_UP_TOKENS = 8
_FIRST_ORDINARY_ID = 8
"""Smaller ones may be special tokens."""


class Generator:
    """A bundle's graphs, and the loop over them."""

    def __init__(self, decoder: Session, *, encoder: Session | None = None) -> None:
        self._decoder = decoder
        self._encoder = encoder
        self._inputs = {spec.name for spec in decoder.inputs}

    def generate(self, prompt: np.ndarray, *, start_id: int, new_tokens: int) -> list[int]:
        """The likeliest token, again and again, whether or not it ends the text.

        Args:
            prompt: int64 [1, sequence_length]: what an encoder reads, or a decoder begins with.
            start_id: what a decoder with an encoder begins with.
        """
        import numpy as np

        feeds: dict[str, np.ndarray] = {}
        ids = prompt
        if self._encoder is not None:
            mask = np.ones_like(prompt)
            states = self._encoder.run({"input_ids": prompt, "attention_mask": mask})["last_hidden_state"]
            feeds = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
            ids = np.array([[start_id]], dtype=np.int64)
        cache = self._empty_cache()
        tokens: list[int] = []
        read = 0
        for step in range(new_tokens):
            length = ids.shape[1]
            outputs = self._decoder.run(
                {
                    **feeds,
                    **cache,
                    "input_ids": ids,
                    "attention_mask": np.ones((1, read + length), dtype=np.int64),
                    "position_ids": np.arange(read, read + length, dtype=np.int64)[None],
                    "use_cache_branch": np.array([step > 0]),
                }
            )
            read += length
            cache = self._next_cache(cache, outputs, first=step == 0)
            tokens.append(int(outputs["logits"][0, -1].argmax()))
            ids = np.array([[tokens[-1]]], dtype=np.int64)
        return tokens

    def _empty_cache(self) -> dict[str, np.ndarray]:
        """float32 [1, heads, 0, head size] each; a head size that is symbolic stands in the outputs."""
        import numpy as np

        sizes = {spec.name.replace("present", "past_key_values"): spec.shape for spec in self._decoder.outputs}
        cache = {}
        for spec in self._decoder.inputs:
            if spec.name.startswith("past_key_values."):
                heads, size = (
                    next(int(shape[axis]) for shape in (spec.shape, sizes[spec.name]) if str(shape[axis]).isdigit())
                    for axis in (1, 3)
                )
                cache[spec.name] = np.zeros((1, heads, 0, size), dtype=np.float32)
        return cache

    def _next_cache(
        self, before: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray], *, first: bool
    ) -> dict[str, np.ndarray]:
        """What an encoder's states gave is kept from the first step on: later ones give nothing in its place."""
        return {
            name: before[name]
            if ".encoder." in name and not first
            else outputs[name.replace("past_key_values", "present")]
            for name in before
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Both sides' graphs of one checkpoint."""

    ours: Generator
    peer: Generator
    start_id: int
    vocabulary: int

    def turn(self, subject: str, turn: int, *, prompt_tokens: int, new_tokens: int) -> GenerateRun:
        """Time one text of each side; the order changes with each turn."""
        import numpy as np

        random = np.random.default_rng(turn)
        prompt = random.integers(_FIRST_ORDINARY_ID, self.vocabulary, (1, prompt_tokens), dtype=np.int64)
        rates: dict[str, float] = {}
        texts: dict[str, list[int]] = {}
        sides = [("ours", self.ours), ("peer", self.peer)]
        for name, generator in sides if turn % 2 == 0 else reversed(sides):
            generator.generate(prompt, start_id=self.start_id, new_tokens=_WARM_UP_TOKENS)
            started = time.perf_counter()
            texts[name] = generator.generate(prompt, start_id=self.start_id, new_tokens=new_tokens)
            rates[name] = new_tokens / (time.perf_counter() - started)
        same = [mine == theirs for mine, theirs in zip(texts["ours"], texts["peer"], strict=True)]
        return GenerateRun(
            subject=subject,
            turn=turn,
            ours_tokens_per_s=rates["ours"],
            peer_tokens_per_s=rates["peer"],
            new_tokens=new_tokens,
            agreeing_tokens=same.index(False) if False in same else len(same),
        )


def open_bundle(folder: Path, *, threads: int) -> Generator:
    """The graphs of a folder, ours or optimum's: they have the same names.

    Raises:
        ValidationFailed: onnxruntime cannot load one.
    """
    if (folder / "encoder_model.onnx").exists():
        return Generator(
            session.open_session(folder / "decoder_model_merged.onnx", threads=threads),
            encoder=session.open_session(folder / "encoder_model.onnx", threads=threads),
        )
    return Generator(session.open_session(folder / "model.onnx", threads=threads))


def measure(
    chosen: Sequence[Checkpoint],
    *,
    place: Workplace,
    turns: int,
    threads: int,
    prompt_tokens: int,
    new_tokens: int,
    say: Callable[[str], None] = print,
) -> GenerateResult:
    """Export each checkpoint with both sides, then let their graphs generate in turn."""
    facts = machine.facts(peer_python=options.require_peer(place.peer_venv))
    subjects, runs = [], []
    for checkpoint in chosen:
        source = place.have(checkpoint)
        config = json.loads((source / "config.json").read_bytes())
        weight_bytes = checkpoints.weight_bytes(source)
        subjects.append(Subject(name=checkpoint.name, title=checkpoint.title, weight_bytes=weight_bytes))
        folder = place.fresh(f"generate-{checkpoint.name}")
        (folder / "store").mkdir()
        say(f"{checkpoint.name}: exporting with both")
        place.onnx_fleet(
            "export", checkpoint.repo_id, "--out", folder / "ours", store=folder / "store",
            log=f"{checkpoint.name}-generate",
        )  # fmt: skip
        place.optimum(checkpoint, folder / "peer", log=f"{checkpoint.name}-generate-peer", unchecked=True)
        pair = Pair(
            ours=open_bundle(folder / "ours" / "onnx", threads=threads),
            peer=open_bundle(folder / "peer", threads=threads),
            start_id=int(config.get("decoder_start_token_id") or 0),
            vocabulary=int(config["vocab_size"]),
        )
        for turn in range(turns):
            run = pair.turn(checkpoint.name, turn, prompt_tokens=prompt_tokens, new_tokens=new_tokens)
            runs.append(run)
            say(
                f"{turn + 1}/{turns} {checkpoint.name:9} ours {run.ours_tokens_per_s:6.1f} optimum "
                f"{run.peer_tokens_per_s:6.1f} tokens/s, {run.agreeing_tokens} of {run.new_tokens} tokens agree"
            )
        del pair
        place.fresh(folder.name)
    return GenerateResult(
        machine=facts, subjects=tuple(subjects), threads=threads, prompt_tokens=prompt_tokens, runs=tuple(runs)
    )


def report(result: GenerateResult) -> str:
    """A row for every checkpoint."""
    rows = []
    for subject in result.subjects:
        runs = [run for run in result.runs if run.subject == subject.name]
        found = Spread.of(run.ours_tokens_per_s / run.peer_tokens_per_s for run in runs)
        rows.append(
            (
                subject.title,
                f"{Spread.of(run.ours_tokens_per_s for run in runs).median:.1f}",
                f"{Spread.of(run.peer_tokens_per_s for run in runs).median:.1f}",
                f"{found.least:.2f}",
                f"{found.median:.2f}",
                f"{found.most:.2f}",
                f">= {AT_LEAST:g}",
                "met" if found.median >= AT_LEAST else "**missed**",
                f"{min(run.agreeing_tokens for run in runs)} of {runs[0].new_tokens}",
            )
        )
    header = ("checkpoint", "ours tokens/s", "optimum tokens/s", "least", "median", "most", "target", "", "same tokens")
    return table(header, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and keep the result."""
    parser = options.parser("generate", __doc__, names="checkpoints")
    parser.add_argument("--runs", type=int, default=5, help="turns of each (default 5)")
    parser.add_argument("--new-tokens", type=int, default=64, help="to generate in a turn (default 64)")
    parser.add_argument("--prompt-tokens", type=int, default=32, help="to begin with (default 32)")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="default: the usable cores")
    options.add_peer(parser)
    chosen = parser.parse_args(arguments)
    picked = [each for each in checkpoints.named(chosen.names or checkpoints.GENERATING) if each.generates]
    with workplace.opened(chosen.folder, peer_venv=chosen.peer_venv) as place:
        result = measure(
            picked,
            place=place,
            turns=chosen.runs,
            threads=chosen.threads,
            prompt_tokens=chosen.prompt_tokens,
            new_tokens=chosen.new_tokens,
        )
        kept = place.results / "generate.json"
        results.write(result, kept)
    print(f"\n{report(result)}\n\nkept in {kept}")


if __name__ == "__main__":
    main()
