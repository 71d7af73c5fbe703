"""Inputs to prove and measure a graph with: random tokens, real text, padding on either side. numpy only.

This is the one place that says what a row of tokens may look like: random words in the frame that the repo's tokenizer
puts around a text, and no other special token. Classifiers of BART's kind read the end token, CLIP's texts are pooled
there, and a placeholder of an image among the words would be one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from onnx_fleet.entities.graph_info import GraphInfo
from onnx_fleet.graphs import further_inputs, packed_tokenizer
from onnx_fleet.graphs.further_inputs import FurtherInput
from onnx_fleet.graphs.text_frame import Frame

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

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
_SPECIAL_KEYS = re.compile(r"_token_(id|ids|index)$")
"""How a configuration calls tokens that mean something to its model: ``eos_token_id``, ``image_token_index``, …"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """What a model takes, as the model itself says."""

    vocab_size: int
    max_length: int | None
    """How many positions it has embeddings for; None where its positions have no end."""
    token_types: int
    """How many token types there are: 1 where token_type_ids have one value only, or are not taken."""
    pad_token_id: int
    special: frozenset[int] = frozenset()
    """Ids that its configuration has a meaning for."""
    end: int | None = None
    """What a text has to end with where no tokenizer says so; None where nothing has to."""
    further: tuple[FurtherInput, ...] = ()
    """What it takes beside tokens, mask and token types."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSpace:
    """What may be fed to one model."""

    tokens: np.ndarray
    """int64 [count]: the ids to draw from, without special ones."""
    frame: Frame = field(default_factory=Frame)
    token_types: int
    pad_token_id: int
    max_length: int
    """The longest sequence to feed: positions, tokenizer and LENGTH_BOUND, whichever is least."""
    fixed_length: int | None = None
    """The only length that the graph takes, to which every batch is padded; None where it takes any."""
    further: tuple[FurtherInput, ...] = ()
    """What the model takes beside tokens, mask and token types."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows of one length, each int64 [batch_size, sequence_length]."""

    input_ids: np.ndarray
    attention_mask: np.ndarray
    token_type_ids: np.ndarray
    per_token: Mapping[str, np.ndarray] = field(default_factory=dict)
    """What the model takes beside these for each token, by name: [batch_size, sequence_length, …]."""
    per_row: Mapping[str, np.ndarray] = field(default_factory=dict)
    """What the model takes beside these for each row, by name: [batch_size, …]."""

    @property
    def feeds(self) -> dict[str, np.ndarray]:
        """All arrays by the contract's input names; sessions and references take those that they know."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "token_type_ids": self.token_type_ids,
            **self.per_token,
            **self.per_row,
        }

    @property
    def real(self) -> np.ndarray:
        """Where a token is no padding: bool [batch_size, sequence_length]."""
        return self.attention_mask.astype(bool)

    def __len__(self) -> int:
        return len(self.input_ids)

    def cut(self, length: int) -> Batch:
        """Return the first tokens of every row: [batch_size, length]."""
        return Batch(
            input_ids=self.input_ids[:, :length],
            attention_mask=self.attention_mask[:, :length],
            token_type_ids=self.token_type_ids[:, :length],
            per_token={name: array[:, :length] for name, array in self.per_token.items()},
            per_row=self.per_row,
        )

    def __getitem__(self, rows: slice) -> Batch:
        return Batch(
            input_ids=self.input_ids[rows],
            attention_mask=self.attention_mask[rows],
            token_type_ids=self.token_type_ids[rows],
            per_token={name: array[rows] for name, array in self.per_token.items()},
            per_row={name: array[rows] for name, array in self.per_row.items()},
        )

    def completed(self, space: TokenSpace, *, seed: Sequence[int]) -> Batch:
        """Return the same tokens with random valid values of all that the model takes beside them.

        Args:
            seed: decides the values: the same one draws the same.
        """
        rng = np.random.default_rng(seed)
        made = [(each, each.values(rng, real=self.real)) for each in space.further]
        return replace(
            self,
            per_token={each.name: values for each, values in made if each.per == "token"},
            per_row={each.name: values for each, values in made if each.per == "row"},
        )


def token_space(
    stage_dir: Path, limits: ModelLimits, *, bound: int = LENGTH_BOUND, fixed_length: int | None = None
) -> TokenSpace:
    """Put together what the model, its packed tokenizer and its graph say.

    Args:
        bound: no sequence is longer than this, whatever they say.
        fixed_length: the only one that the graph takes, padding included.
    """
    special = {limits.pad_token_id, *limits.special}
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = () if limits.end is None else (limits.end,)
    if (stage_dir / "tokenizer.json").exists():
        tokenizer = packed_tokenizer.parsed(stage_dir / "tokenizer.json")
        special |= {index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        prefix, suffix = _around_a_text(tokenizer, vocab_size=limits.vocab_size)
    tokens = np.setdiff1d(np.arange(limits.vocab_size), sorted(special))
    tokens = tokens if tokens.size else np.arange(limits.vocab_size)
    return TokenSpace(
        tokens=tokens,
        frame=Frame(prefix=prefix, suffix=suffix, word=int(tokens[min(1, len(tokens) - 1)])),
        token_types=limits.token_types,
        pad_token_id=limits.pad_token_id,
        max_length=min(limits.max_length or bound, tokenizer_limit(stage_dir) or bound, fixed_length or bound, bound),
        fixed_length=fixed_length,
        further=limits.further,
    )


def of_one_word(frame: Frame) -> TokenSpace:
    """Return a space of the frame and its word alone, where only the sizes of what is fed matter."""
    return TokenSpace(
        tokens=np.array([frame.word]), frame=frame, token_types=1, pad_token_id=0, max_length=LENGTH_BOUND
    )


def limits_of_files(stage_dir: Path, *, graphs: Iterable[GraphInfo]) -> ModelLimits | None:
    """Return what a stage's config.json says that its model takes; None for a model without a vocabulary.

    Args:
        graphs: the stage's graphs; what a whole model's takes beside tokens is among it.
    """
    config = json.loads((stage_dir / "config.json").read_text(encoding="utf-8"))
    told: Mapping[str, Any] = next(
        (each for each in (config, config.get("text_config")) if isinstance(each, dict) and each.get("vocab_size")), {}
    )
    if not told:
        return None
    size = int(told["vocab_size"])
    return ModelLimits(
        vocab_size=size,
        max_length=None,
        token_types=int(told.get("type_vocab_size") or 1),
        pad_token_id=known_token(told.get("pad_token_id"), size) or 0,
        special=special_tokens(config, vocab_size=size),
        end=known_token(told.get("eos_token_id"), size) if config.get("is_encoder_decoder") else None,
        further=next((further_inputs.of_graph(info.inputs, told) for info in graphs if info.role == "model"), ()),
    )


def special_tokens(config: Mapping[str, Any], *, vocab_size: int) -> frozenset[int]:
    """Return the ids that a configuration has a meaning for, at any depth."""

    def found(value: object, *, named: bool) -> Iterator[int]:
        if isinstance(value, Mapping):
            for key, part in value.items():
                yield from found(part, named=bool(_SPECIAL_KEYS.search(str(key))))
        elif named and isinstance(value, list | tuple):
            for part in value:
                yield from found(part, named=True)
        elif named and (token := known_token(value, vocab_size)) is not None:
            yield token

    return frozenset(found(config, named=False))


def known_token(token: object, vocab_size: int) -> int | None:
    """Return an id that the vocabulary has, or None: configurations also write -1, or another vocabulary's."""
    return token if isinstance(token, int) and 0 <= token < vocab_size else None


def _around_a_text(tokenizer: Tokenizer, *, vocab_size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that a tokenizer puts before a text and behind it."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    for text in TEXTS:
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        whole = tokenizer.encode(text).ids
        for start in range(len(whole) - len(plain) + 1) if plain else ():
            if whole[start : start + len(plain)] == plain:
                before, behind = whole[:start], whole[start + len(plain) :]
                return tuple(_known(before, vocab_size)), tuple(_known(behind, vocab_size))
    return (), ()


def _known(tokens: Sequence[int], vocab_size: int) -> Iterator[int]:
    return (token for token in tokens if token < vocab_size)


def random_ids(space: TokenSpace, shape: Sequence[int], *, rng: np.random.Generator) -> np.ndarray:
    """Return random words in the tokenizer's frame: int64 of the shape.

    Args:
        shape: its last axis is tokens.
    """
    return space.frame.around(rng.choice(space.tokens, size=tuple(shape)).astype(np.int64))


def random_batch(space: TokenSpace, *, batch_size: int, length: int, seed: int) -> Batch:
    """Return full rows of random words in the tokenizer's frame: int64 [batch_size, length] each.

    Every row of two tokens and more has every token type that the model has.
    """
    rng = np.random.default_rng((seed, batch_size, length))
    types = np.arange(length) * space.token_types // length
    return Batch(
        input_ids=random_ids(space, (batch_size, length), rng=rng),
        attention_mask=np.ones((batch_size, length), dtype=np.int64),
        token_type_ids=np.tile(types.astype(np.int64), (batch_size, 1)),
    ).completed(space, seed=(seed, batch_size, length))


def text_batches(stage_dir: Path, space: TokenSpace, *, texts: Sequence[str] = TEXTS) -> tuple[Batch, Batch]:
    """Return texts one by one, and pairs of them, through the packed tokenizer: two batches, padded on the right.

    They are no one batch: a pair has more end tokens than a text, and classifiers that read them take rows of equally
    many.
    """
    tokenizer = packed_tokenizer.parsed(stage_dir / "tokenizer.json")
    tokenizer.no_padding()
    tokenizer.enable_truncation(space.max_length)
    alone = map(tokenizer.encode, texts)
    pairs = (tokenizer.encode(*pair) for pair in zip(texts[-2:], texts[:-3:-1], strict=True))
    singles, doubles = (
        pad([row_of(encoding, space) for encoding in each], side="right", space=space) for each in (alone, pairs)
    )
    return singles, doubles


def row_of(encoding: Encoding, space: TokenSpace) -> Batch:
    """Return what a tokenizer made of one text as a batch of one row: int64 [1, tokens] each.

    What else the model takes follows from the tokens.
    """
    return Batch(
        input_ids=np.array([encoding.ids], dtype=np.int64),
        attention_mask=np.array([encoding.attention_mask], dtype=np.int64),
        token_type_ids=np.array([encoding.type_ids], dtype=np.int64) % space.token_types,
    ).completed(space, seed=encoding.ids)


def pad(rows: Sequence[Batch], *, side: Side, space: TokenSpace) -> Batch:
    """Return one batch of rows of different lengths, as a tokenizer makes it: int64 [rows, sequence_length] each.

    It is as long as the longest row, or as the graph asks.
    """
    length = space.fixed_length or max(row.input_ids.shape[1] for row in rows)

    def joined(name: str, filler: int) -> np.ndarray:
        arrays = (row.feeds[name] for row in rows)
        padded = []
        for array in arrays:
            missing = length - array.shape[1]
            widths = (missing, 0) if side == "left" else (0, missing)
            padded.append(np.pad(array, ((0, 0), widths, *[(0, 0)] * (array.ndim - 2)), constant_values=filler))
        return np.concatenate(padded)

    fillers = {each.name: each.filler for each in space.further}

    return Batch(
        input_ids=joined("input_ids", space.pad_token_id),
        attention_mask=joined("attention_mask", 0),
        token_type_ids=joined("token_type_ids", 0),
        per_token={name: joined(name, fillers[name]) for name in rows[0].per_token},
        per_row={name: np.concatenate([row.per_row[name] for row in rows]) for name in rows[0].per_row},
    )


def replace_masked(batch: Batch, *, space: TokenSpace, seed: int) -> Batch:
    """Return the same real tokens, and random ones where the mask says that there is nothing, with all that is theirs.

    No array changes its shape or type.
    """
    rng = np.random.default_rng(seed)
    noise = rng.choice(space.tokens, size=batch.input_ids.shape)
    everywhere = np.ones_like(batch.real)
    noisy = {each.name: each.values(rng, real=everywhere) for each in space.further if each.name in batch.per_token}
    return replace(
        batch,
        input_ids=np.where(batch.real, batch.input_ids, noise).astype(np.int64),
        per_token={
            name: np.where(batch.real.reshape(*batch.real.shape, *[1] * (array.ndim - 2)), array, noisy[name])
            for name, array in batch.per_token.items()
        },
    )


def ignored(batch: Batch, each: FurtherInput) -> Batch:
    """Return the batch as a graph would see it that does not look at one of its further inputs."""
    if each.per == "row":
        return replace(batch, per_row={**batch.per_row, each.name: np.full_like(batch.per_row[each.name], each.filler)})
    return replace(
        batch, per_token={**batch.per_token, each.name: np.full_like(batch.per_token[each.name], each.filler)}
    )


def tokenizer_limit(stage_dir: Path) -> int | None:
    """Return the most tokens that a stage's tokenizer makes of a text; None where it does not say."""
    path = stage_dir / "tokenizer_config.json"
    if not path.exists():
        return None
    stated = json.loads(path.read_text(encoding="utf-8")).get("model_max_length")
    if not isinstance(stated, int | float) or not 0 < stated < _NO_TOKENIZER_LIMIT:
        return None
    return int(stated)


def token_space_of_files(
    stage_dir: Path, *, graphs: Iterable[GraphInfo], longest: int, fixed_length: int | None = None
) -> TokenSpace | None:
    """Return what may be fed to a stage's model as tokens, as its files say; None for a model without a vocabulary.

    Args:
        graphs: the stage's; what a single one takes beside tokens is fed to it.
        longest: the most tokens that the model is known to take.
        fixed_length: the only number of tokens that a version takes.
    """

    limits = limits_of_files(stage_dir, graphs=graphs)
    if limits is None:
        return None
    return token_space(stage_dir, limits, bound=longest, fixed_length=fixed_length)
