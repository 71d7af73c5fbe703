"""Inputs to prove and measure a graph with: random tokens, real text, padding on either side. numpy only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Encoding

Side = Literal["left", "right"]

LENGTH_BOUND = 512
"""Models of 8,192 positions are proven up to here: eager attention needs memory with the square of the length."""

TEXTS = (
    "A bundle is proven equal to PyTorch before anyone may load it.",
    "Prices rose 3.5% to €1,299.00 -- really?",
    "東京は日本の首都です。 Привет, мир!",
    "Padding.",
    "The committee has not yet decided whether the second reading of the bill, which was put off twice, will be held "
    "in public; its chair said on Monday that a vote before the recess is unlikely.",
)
_NO_TOKENIZER_LIMIT = 1_000_000
"""tokenizer_config.json writes 1e30 for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """What a model takes, as the model itself says."""

    vocab_size: int
    max_length: int | None
    """Positions that it has embeddings for; None where its positions have no end."""
    token_types: int
    """1 where token_type_ids have one value only, or are not taken."""
    pad_token_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSpace:
    """What may be fed to one model."""

    tokens: np.ndarray
    """int64 [count]: the ids to draw from, without special ones."""
    token_types: int
    pad_token_id: int
    max_length: int
    """The longest sequence to feed: positions, tokenizer and LENGTH_BOUND, whichever is least."""
    fixed_length: int | None = None
    """Of a graph that takes one length only: every batch is padded to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows of one length, each int64 [batch_size, sequence_length]."""

    input_ids: np.ndarray
    attention_mask: np.ndarray
    token_type_ids: np.ndarray

    @property
    def feeds(self) -> dict[str, np.ndarray]:
        """By the contract's input names; sessions and references take those that they know."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "token_type_ids": self.token_type_ids,
        }

    @property
    def real(self) -> np.ndarray:
        """bool [batch_size, sequence_length]: True where a token is no padding."""
        return self.attention_mask.astype(bool)

    def __len__(self) -> int:
        return len(self.input_ids)

    def cut(self, length: int) -> Batch:
        """The first tokens of every row."""
        return Batch(
            input_ids=self.input_ids[:, :length],
            attention_mask=self.attention_mask[:, :length],
            token_type_ids=self.token_type_ids[:, :length],
        )

    def __getitem__(self, rows: slice) -> Batch:
        return Batch(
            input_ids=self.input_ids[rows],
            attention_mask=self.attention_mask[rows],
            token_type_ids=self.token_type_ids[rows],
        )


def token_space(
    stage_dir: Path, limits: ModelLimits, *, bound: int = LENGTH_BOUND, fixed_length: int | None = None
) -> TokenSpace:
    """Put together what the model, its packed tokenizer and its graph say.

    Args:
        bound: no sequence is longer than this, whatever they say.
        fixed_length: the only one that the graph takes, padding included.
    """
    special = {limits.pad_token_id}
    if (stage_dir / "tokenizer.json").exists():
        packed = json.loads((stage_dir / "tokenizer.json").read_text(encoding="utf-8"))
        special |= {token["id"] for token in packed.get("added_tokens", ()) if token.get("special")}
    tokens = np.setdiff1d(np.arange(limits.vocab_size), sorted(special))
    return TokenSpace(
        tokens=tokens if tokens.size else np.arange(limits.vocab_size),
        token_types=limits.token_types,
        pad_token_id=limits.pad_token_id,
        max_length=min(limits.max_length or bound, _tokenizer_limit(stage_dir) or bound, fixed_length or bound, bound),
        fixed_length=fixed_length,
    )


def random_batch(space: TokenSpace, *, batch_size: int, length: int, seed: int) -> Batch:
    """Full rows of random tokens; every token type that the model has, in every row of two tokens and more."""
    rng = np.random.default_rng((seed, batch_size, length))
    types = np.arange(length) * space.token_types // length
    return Batch(
        input_ids=rng.choice(space.tokens, size=(batch_size, length)).astype(np.int64),
        attention_mask=np.ones((batch_size, length), dtype=np.int64),
        token_type_ids=np.tile(types.astype(np.int64), (batch_size, 1)),
    )


def text_batch(stage_dir: Path, space: TokenSpace, *, texts: Sequence[str] = TEXTS) -> Batch:
    """Texts, the last two as a pair, through the packed tokenizer; padded on the right."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(stage_dir / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(space.max_length)
    encodings = [*map(tokenizer.encode, texts[:-2]), tokenizer.encode(texts[-2], texts[-1])]
    return pad([row_of(encoding, space) for encoding in encodings], side="right", space=space)


def row_of(encoding: Encoding, space: TokenSpace) -> Batch:
    """What a tokenizer made of one text, as a batch of one row."""
    return Batch(
        input_ids=np.array([encoding.ids], dtype=np.int64),
        attention_mask=np.array([encoding.attention_mask], dtype=np.int64),
        token_type_ids=np.array([encoding.type_ids], dtype=np.int64) % space.token_types,
    )


def pad(rows: Sequence[Batch], *, side: Side, space: TokenSpace) -> Batch:
    """One batch of rows of different lengths, as a tokenizer makes it: as long as the longest, or as the graph asks."""
    length = space.fixed_length or max(row.input_ids.shape[1] for row in rows)

    def joined(name: str, filler: int) -> np.ndarray:
        arrays = (row.feeds[name] for row in rows)
        padded = []
        for array in arrays:
            missing = length - array.shape[1]
            widths = (missing, 0) if side == "left" else (0, missing)
            padded.append(np.pad(array, ((0, 0), widths), constant_values=filler))
        return np.concatenate(padded)

    return Batch(
        input_ids=joined("input_ids", space.pad_token_id),
        attention_mask=joined("attention_mask", 0),
        token_type_ids=joined("token_type_ids", 0),
    )


def replace_masked(batch: Batch, *, space: TokenSpace, seed: int) -> Batch:
    """The same real tokens, with random ones where the mask says that there is nothing."""
    rng = np.random.default_rng(seed)
    noise = rng.choice(space.tokens, size=batch.input_ids.shape)
    return Batch(
        input_ids=np.where(batch.real, batch.input_ids, noise).astype(np.int64),
        attention_mask=batch.attention_mask,
        token_type_ids=batch.token_type_ids,
    )


def _tokenizer_limit(stage_dir: Path) -> int | None:
    path = stage_dir / "tokenizer_config.json"
    if not path.exists():
        return None
    stated = json.loads(path.read_text(encoding="utf-8")).get("model_max_length")
    if not isinstance(stated, int | float) or not 0 < stated < _NO_TOKENIZER_LIMIT:
        return None
    return int(stated)
