"""Texts as the two sides read them: through the source's files in transformers, and through the packed ones without."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnx_fleet.entities.validation_report import CheckRow
from onnx_fleet.graphs import packed_tokenizer, text_inputs
from onnx_fleet.graphs.comparison import Case
from onnx_fleet.graphs.text_inputs import Batch
from onnx_fleet.source.tokenizers import conversion, proof, word_tokenizers
from onnx_fleet.validation.checks.context import CheckContext

Text = tuple[str, str | None]
"""A text, and the second one of a pair."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """How one side turns texts into ids, and ids and classes into words."""

    encode: Callable[[Sequence[Text]], Batch]
    token: Callable[[int], str]
    decode: Callable[[Sequence[int]], str]
    """Ids -> the text that they are, without special tokens."""
    labels: Sequence[str]
    """The words of config.json for its classes, in order; empty where it has none."""
    mask_token: str | None
    """The source's mask token, for both sides: it is what its users write."""

    def label(self, index: int) -> str:
        """Return a class in words."""
        return label(self.labels, index)


def sides(subject: CheckContext) -> tuple[Side, Side] | None:
    """Return the source's side and the bundle's, and None where the stage has no tokenizer.json."""
    if subject.without_text:
        return None
    return of_source(subject), of_stage(subject)


def known(subject: CheckContext, texts: Sequence[Text]) -> list[Text]:
    """Return those texts on which a tokenizer.json can be exact at all."""
    source = subject.source_tokenizer
    return [text for text in texts if all(conversion.covers(source, part) for part in text if part is not None)]


def read_alike(subject: CheckContext, ids: Sequence[int], *, both: tuple[Side, Side], case: Case) -> CheckRow:
    """Return one row: whether the packed tokenizer makes the same text of a model's tokens as the source's."""
    own, found = (side.decode(ids) for side in both)
    if proof.reads_alike(found, own, source=subject.source_tokenizer, ids=ids):
        return case.row("equal", output="text", passed=True)
    return case.row(
        "different", output="text", detail=f"{found[:80]!r} where the source's tokenizer reads {own[:80]!r}"
    )


def of_source(subject: CheckContext) -> Side:
    """Return the side that transformers makes of the source's own files."""
    tokenizer: Any = subject.source_tokenizer
    pad_id = subject.space.pad_token_id if tokenizer.pad_token is None else tokenizer.pad_token_id
    space = replace(subject.space, pad_token_id=int(pad_id))

    def encode(texts: Sequence[Text]) -> Batch:
        rows = []
        for first, second in texts:
            settings = {"truncation": True, "max_length": space.max_length, "return_tensors": "np"}
            found = word_tokenizers.encode(tokenizer, first, second, **settings)
            ids = found["input_ids"].astype(np.int64)
            types = found.get("token_type_ids", np.zeros_like(ids)).astype(np.int64) % space.token_types
            row = Batch(input_ids=ids, attention_mask=np.ones_like(ids), token_type_ids=types)
            rows.append(row.completed(space, seed=ids[0].tolist()))
        return text_inputs.pad(rows, side=tokenizer.padding_side, space=space)

    return Side(
        encode=encode,
        token=lambda index: str(tokenizer.convert_ids_to_tokens(int(index))),
        decode=lambda ids: proof.decoded(tokenizer, [int(index) for index in ids], skip=True),
        labels=labels_of(subject.source_dir),
        mask_token=tokenizer.mask_token,
    )


def of_stage(subject: CheckContext, *, max_length: int | None = None, lower_case: bool = False) -> Side:
    """Return the side that a consumer without transformers makes of the packed files.

    Args:
        max_length: tokens to cut a text to; None takes as many as may be fed.
        lower_case: whether letters are lowered before the tokenizer sees them, which may be a cased one.
    """
    from tokenizers import Tokenizer, normalizers

    settings = _json(subject.stage_dir / "tokenizer_config.json")
    path = subject.stage_dir / "tokenizer.json"
    if lower_case:
        tokenizer = Tokenizer.from_file(str(path))
        own = tokenizer.normalizer
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *([own] if own else [])])
    else:
        tokenizer = packed_tokenizer.parsed(path)
    makes_types = "token_type_ids" in subject.source_tokenizer.model_input_names
    pad = _content(settings.get("pad_token"))
    pad_id = tokenizer.token_to_id(pad) if pad else None

    space = replace(subject.space, pad_token_id=subject.space.pad_token_id if pad_id is None else pad_id)
    padding_side: Any = subject.source_tokenizer.padding_side
    places = word_tokenizers.place_argument(subject.source_tokenizer)

    def encode(texts: Sequence[Text]) -> Batch:
        tokenizer.no_padding()
        tokenizer.enable_truncation(space.fixed_length or max_length or space.max_length)
        rows = []
        for text, pair in texts:
            row = text_inputs.row_of(word_tokenizers.encode_packed(tokenizer, text, pair, places=places), space)
            rows.append(row if makes_types else replace(row, token_type_ids=row.token_type_ids * 0))
        return text_inputs.pad(rows, side=padding_side, space=space)

    return Side(
        encode=encode,
        token=lambda index: str(tokenizer.id_to_token(int(index))),
        decode=lambda ids: str(tokenizer.decode([int(index) for index in ids], skip_special_tokens=True)),
        labels=labels_of(subject.stage_dir),
        mask_token=subject.source_tokenizer.mask_token,
    )


def label(labels: Sequence[str], index: int) -> str:
    """Return a class in words; one without a name is called as transformers calls it."""
    return labels[index] if index < len(labels) else f"LABEL_{index}"


def labels_of(folder: Path) -> list[str]:
    """Return the words of a folder's config.json for its classes, in order; there are none where it names none."""
    named: Mapping[str, object] = _json(folder / "config.json").get("id2label") or {}
    return [str(named[key]) for key in sorted(named, key=int)]


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() else {}
    return found


def _content(token: object) -> str | None:
    """A special token as tokenizer_config.json writes it: a text, or an object around one."""
    said = token.get("content") if isinstance(token, dict) else token
    return said if isinstance(said, str) else None
