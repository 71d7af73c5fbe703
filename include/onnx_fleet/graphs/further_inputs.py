"""What models of text take beside tokens, mask and token types: places on a page, pixels of it, paths in its markup.

One table of kinds says for each by which name a graph takes it, when a model reads it, which values are valid and what
stands for padding. Exports, checks, timings and comparisons of versions all make their inputs from it. A second table
says what no graph takes: a model that reads it is refused. numpy only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from onnx_fleet.entities.graph_info import TensorSpec

Settings = Mapping[str, Any]
"""A config.json, or a configuration as a mapping."""

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]

LARGEST_COORDINATE = 1000
"""The Hub's convention: a page is 1,000 units wide and 1,000 high, whatever a model's tables could hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FurtherInput:
    """One input of one model."""

    name: str
    """What transformers' forward calls it, and so the graph."""
    dtype: str
    """numpy's name of its type: ``int64``."""
    per: Literal["token", "row"]
    shape: tuple[int, ...] = ()
    """The axes behind those of the tokens, or of one row."""
    filler: int = 0
    """What stands where there is padding, and what ignoring the input would make of it."""
    draw: Draw
    """(generator, whole shape) -> valid values of that shape, which differ from place to place."""

    def values(self, rng: np.random.Generator, *, real: np.ndarray) -> np.ndarray:
        """Return random valid values for a batch; where a token is padding, the filler.

        They are [batch_size, …, sequence_length, *shape] where there is one for each token, else [batch_size, *shape].

        Args:
            real: bool [batch_size, …, sequence_length].
        """
        if self.per == "row":
            return self.draw(rng, (len(real), *self.shape)).astype(self.dtype)
        drawn = self.draw(rng, (*real.shape, *self.shape))
        where = real.reshape(*real.shape, *(1 for _ in self.shape))
        made: np.ndarray = np.where(where, drawn, self.filler).astype(self.dtype)
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What inputs of one name and meaning have in common."""

    name: str
    holds: str
    """What it holds, for people: ``the place of each token on its page``."""
    read: Callable[[Settings], bool]
    """Whether a model with this configuration reads it, where its forward takes it."""
    of: Callable[[Settings], FurtherInput]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An input that changes the answer, and that no graph takes."""

    name: str
    read: Callable[[Settings], bool]
    why: str
    """Why it is refused: it goes on behind ``it reads NAME,``."""


def of_model(parameters: Collection[str], settings: Settings) -> tuple[FurtherInput, ...]:
    """Return what a model takes that a graph of it has to take as well.

    Args:
        parameters: the names that its forward takes.
        settings: its configuration, defaults and all.
    """
    return tuple(kind.of(settings) for kind in KINDS if kind.name in parameters and kind.read(settings))


def of_graph(inputs: Iterable[TensorSpec], settings: Settings) -> tuple[FurtherInput, ...]:
    """Return the same for a graph that is there already; its own shapes are taken where they are numbers."""
    specs = {spec.name: spec for spec in inputs}
    found = of_model(specs.keys(), settings)
    return tuple(replace(each, shape=_numbers(specs[each.name], each)) for each in found)


def refused(parameters: Collection[str], settings: Settings) -> Iterator[Refusal]:
    """Yield what a model reads that keeps it from being exported."""
    yield from (each for each in REFUSED if each.name in parameters and each.read(settings))


def _numbers(spec: TensorSpec, own: FurtherInput) -> tuple[int, ...]:
    tail = spec.shape[len(spec.shape) - len(own.shape) :]
    return tuple(size if isinstance(size, int) else wanted for size, wanted in zip(tail, own.shape, strict=True))


def _ids(below: int) -> Draw:
    return lambda rng, shape: rng.integers(0, max(1, below), size=shape)


def _boxes(rng: np.random.Generator, shape: tuple[int, ...], *, largest: int) -> np.ndarray:
    """Upper left corner and lower right one: x0, y0, x1, y1, with x0 <= x1 and y0 <= y1."""
    corners = np.sort(rng.integers(0, largest + 1, size=(*shape[:-1], shape[-1] // 2, 2)), axis=-2)
    return corners.reshape(shape)


def _boxes_in_tables(settings: Settings) -> FurtherInput:
    """Whole numbers, looked up in a table of positions a side."""
    largest = min(LARGEST_COORDINATE, int(settings["max_2d_position_embeddings"]) - 1)
    return FurtherInput(
        name="bbox", dtype="int64", per="token", shape=(4,), draw=lambda rng, shape: _boxes(rng, shape, largest=largest)
    )


def _boxes_of_parts(_: Settings) -> FurtherInput:
    """Parts of the page's width and height, from 0 to 1."""
    return FurtherInput(
        name="bbox",
        dtype="float32",
        per="token",
        shape=(4,),
        draw=lambda rng, shape: _boxes(rng, shape, largest=LARGEST_COORDINATE) / LARGEST_COORDINATE,
    )


def _pixels(settings: Settings) -> FurtherInput:
    """One image a row, of the one size that the model has positions for; of unit variance, as if normalised."""
    side = settings["input_size"]
    height, width = (side, side) if isinstance(side, int) else side
    return FurtherInput(
        name="pixel_values",
        dtype="float32",
        per="row",
        shape=(int(settings.get("num_channels", 3)), int(height), int(width)),
        draw=lambda rng, shape: rng.standard_normal(shape),
    )


def _path(name: str, *, size: str, padding: str) -> Callable[[Settings], FurtherInput]:
    """One number for each step from the root of the markup down to a token."""
    return lambda settings: FurtherInput(
        name=name,
        dtype="int64",
        per="token",
        shape=(int(settings["max_depth"]),),
        filler=int(settings[padding]),
        draw=_ids(int(settings[size])),
    )


def _one_id(name: str, *, size: str) -> Callable[[Settings], FurtherInput]:
    return lambda settings: FurtherInput(name=name, dtype="int64", per="token", draw=_ids(int(settings[size])))


def _has(*names: str) -> Callable[[Settings], bool]:
    return lambda settings: all(settings.get(name) for name in names)


KINDS: tuple[Kind, ...] = (
    Kind(
        name="bbox",
        holds="the place of each token on its page, x0 y0 x1 y1 from 0 to 1,000",
        read=_has("max_2d_position_embeddings"),
        of=_boxes_in_tables,
    ),
    Kind(
        name="bbox",
        holds="the place of each token on its page, x0 y0 x1 y1 as parts of its width and height",
        read=_has("bbox_scale"),
        of=_boxes_of_parts,
    ),
    Kind(
        name="xpath_tags_seq",
        holds="the tags on the way to each token",
        read=_has("max_depth", "max_xpath_tag_unit_embeddings"),
        of=_path("xpath_tags_seq", size="max_xpath_tag_unit_embeddings", padding="tag_pad_id"),
    ),
    Kind(
        name="xpath_subs_seq",
        holds="which of several equal tags each one is",
        read=_has("max_depth", "max_xpath_subs_unit_embeddings"),
        of=_path("xpath_subs_seq", size="max_xpath_subs_unit_embeddings", padding="subs_pad_id"),
    ),
    Kind(
        name="input_shape_ids",
        holds="what each Chinese character looks like",
        read=_has("enable_shape", "shape_vocab_size"),
        of=_one_id("input_shape_ids", size="shape_vocab_size"),
    ),
    Kind(
        name="input_pronunciation_ids",
        holds="how each Chinese character is spoken",
        read=_has("enable_pronunciation", "pronunciation_vocab_size"),
        of=_one_id("input_pronunciation_ids", size="pronunciation_vocab_size"),
    ),
    Kind(
        name="task_type_ids",
        holds="the task, one of those that the model was trained for",
        read=_has("use_task_id", "task_type_vocab_size"),
        of=_one_id("task_type_ids", size="task_type_vocab_size"),
    ),
    Kind(
        name="langs",
        holds="the language of each token",
        read=lambda settings: bool(settings.get("use_lang_emb")) and int(settings.get("n_langs") or 1) > 1,
        of=_one_id("langs", size="n_langs"),
    ),
    Kind(
        name="pixel_values",
        holds="the image of the page",
        read=_has("visual_embed", "input_size"),
        of=_pixels,
    ),
)
"""What becomes an input of the graph. A model reads at most one of two kinds with one name."""

REFUSED: tuple[Refusal, ...] = (
    Refusal(
        name="entity_ids",
        read=_has("entity_vocab_size"),
        why="the entities that a text names, whose number is another than that of its tokens",
    ),
    Refusal(
        name="visual_embeds",
        read=_has("visual_embedding_dim"),
        why="what a detector, which is no part of the model, saw in an image",
    ),
    Refusal(
        name="visual_feats",
        read=_has("visual_feat_dim"),
        why="what a detector, which is no part of the model, saw in an image",
    ),
    Refusal(
        name="image",
        read=_has("detectron2_config_args"),
        why="the image of the page, which it looks at with a backbone of detectron2",
    ),
    Refusal(
        name="token_type_ids",
        read=_has("type_vocab_sizes"),
        why="of which it has several a token: rows, columns and ranks of a table",
    ),
    Refusal(
        name="lang_ids",
        read=_has("languages"),
        why="the language of each text, whose own layers it goes through",
    ),
    Refusal(
        name="global_attention_mask",
        read=_has("attention_window"),
        why="the tokens that see all others",
    ),
)
"""What changes the answer, and what no graph takes: a model that reads it is refused by its name."""
