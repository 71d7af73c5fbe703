"""tokenizer.onnx: texts in, ``input_ids`` and ``attention_mask`` out, so that onnxruntime alone serves text.

Its custom ops need the library of onnxruntime-extensions registered with the session::

    options.register_custom_ops_library(onnxruntime_extensions.get_library_path())

The graph is written only where it proves exact. It does not truncate, and U+0000 ends a text, because onnxruntime's
Python API takes strings so.
"""

from __future__ import annotations

import importlib
import json
import random
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_fleet.entities.provider import CPU, EXECUTION_PROVIDERS
from onnx_fleet.graphs import packed_tokenizer
from onnx_fleet.source.tokenizers.onnx_nodes import DOMAIN, TEXTS, Op, Way, nodes_of, value_info
from onnx_fleet.source.tokenizers.proof import CORPUS

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILE_NAME = "tokenizer.onnx"

_OPSETS = {"": 20, "ai.onnx.ml": 3, DOMAIN: 1}
_IR_VERSION = 10
_CHARACTERS = (range(1, 0xD800), range(0xE000, 0x323B0), range(0xE0000, 0xE01F0))
"""The characters that Unicode has given a meaning; 0 ends a text."""

_RANDOM_TEXTS = 100
_SPECIAL_TEXTS = 64
"""The number of the tokenizer's own added tokens that are tried inside a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerGraph:
    """The result of making a tokenizer graph."""

    path: str | None
    """The graph's path relative to the stage; None where no graph is exact."""
    texts: int
    """The number of texts on which the graph was held to tokenizer.json, alone and in one padded batch."""
    reason: str
    """The reason why there is no graph."""


def write(stage: Path) -> TokenizerGraph:
    """Write ``tokenizer.onnx`` into a stage with a proven tokenizer.json, where it can be made exact."""
    out = stage / FILE_NAME
    if not (stage / "tokenizer.json").exists():
        return TokenizerGraph(path=None, texts=0, reason="there is no tokenizer.json")
    if not _has_library():
        reason = "onnxruntime-extensions is not installed; add it with `pip install onnxruntime-extensions`"
        return TokenizerGraph(path=None, texts=0, reason=reason)
    ways = tuple(_ways(json.loads((stage / "tokenizer.json").read_text(encoding="utf-8"))))
    reasons = []
    for way in ways:
        build(stage, out, way=way)
        differing = prove(out, stage)
        if not differing:
            return TokenizerGraph(path=FILE_NAME, texts=len(texts(stage)), reason="")
        reasons.append(differing[0])
        out.unlink()
    reason = reasons[-1] if reasons else "onnxruntime-extensions has no op for this kind of tokenizer"
    return TokenizerGraph(path=None, texts=len(texts(stage)) if reasons else 0, reason=reason)


def build(stage: Path, out: Path, *, way: Way) -> None:
    """Write the graph for one way of using the op; prove tells whether it is exact.

    Inputs: ``text`` string [batch_size]. Outputs: ``input_ids``, ``attention_mask`` and ``token_type_ids``, int64
    [batch_size, sequence_length], padded on the side that tokenizer_config.json names.
    """
    import onnx
    from onnx import helper, numpy_helper

    data = json.loads((stage / "tokenizer.json").read_text(encoding="utf-8"))
    settings = _settings(stage)
    tokenizer = _tokenizer(stage)
    prefix, suffix = _template(tokenizer)
    specials = sorted(data.get("added_tokens") or (), key=lambda each: -len(each["content"]))
    constants: dict[str, Any] = {
        "zero": np.array(0, np.int64), "one": np.array(1, np.int64), "zeros": np.array([0], np.int64),
        "ones": np.array([1], np.int64), "minus_one": np.array([-1], np.int64), "always": np.array(True),
        "nothing": np.array([], np.int64), "pad": np.array(_pad_id(tokenizer, settings), np.int64),
        "prefix": np.array(prefix, np.int64), "suffix": np.array(suffix, np.int64),
    }  # fmt: skip
    if way.segmented:
        constants["special_ids"] = np.array([each["id"] for each in specials], np.int64)
        constants["specials"] = np.array([each["content"] for each in specials], dtype=object)
        pattern = "|".join(re.escape(each["content"]) for each in specials)
        constants["pattern"] = np.array([f"({pattern})"], dtype=object)
    if way.op == "BertTokenizer":
        constants |= {name: np.array([text], dtype=object) for name, text in TEXTS.items()}
        alone = _alone(tokenizer)
        constants["word_end"] = np.array([f"( +|[{alone}])"], dtype=object)
        constants["word_itself"] = np.array([f"([{alone}])"], dtype=object)
        constants["unknown"] = np.array([data["model"]["vocab"][data["model"]["unk_token"]]], np.int64)
    op = Op(way=way, attributes=_attributes(data, settings, way=way), characters=_characters(tokenizer, way=way))
    nodes = nodes_of(op, left=settings.get("padding_side") == "left")
    outputs = ("input_ids", "attention_mask", "token_type_ids")
    made = helper.make_graph(
        nodes,
        "tokenizer",
        [helper.make_tensor_value_info("text", onnx.TensorProto.STRING, ["batch_size"])],
        [value_info(name, onnx.TensorProto.INT64, ["batch_size", "sequence_length"]) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid(name, number) for name, number in _OPSETS.items()]
    model = helper.make_model(made, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="onnx-fleet")
    out.write_bytes(model.SerializeToString(deterministic=True))


def prove(path: Path, stage: Path) -> tuple[str, ...]:
    """Hold the graph to the stage's tokenizer.json, text by text and all texts in one batch.

    Returns:
        The differences; none where the graph is exact.
    """
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(importlib.import_module("onnxruntime_extensions").get_library_path())
    try:
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=[EXECUTION_PROVIDERS[CPU]])
        tokenizer = _tokenizer(stage)
        found = list(_differences(session, tokenizer, texts(stage)))
    except _runtime_errors() as err:
        return (f"the graph does not run: {str(err).strip().splitlines()[0]}",)
    return tuple(found)


def texts(stage: Path) -> tuple[str, ...]:
    """Return the corpus without U+0000, added tokens inside a text, whole and begun, and random text."""
    data = json.loads((stage / "tokenizer.json").read_text(encoding="utf-8"))
    added = [each["content"] for each in data.get("added_tokens") or ()][:_SPECIAL_TEXTS]
    return (
        *(text.replace("\0", "\1") for text in CORPUS),
        *(f"the {token} and{token}again" for token in added),
        *(f"the {token[:length]}x {token[:length]}" for token in added[:8] for length in range(1, len(token))),
        *_random_texts(),
    )


def _random_texts() -> Iterator[str]:
    """Iterate over short texts that glue together what people do not: always the same ones."""
    draw = random.Random(0)
    plain = [*map(chr, range(0x20, 0x7F)), " ", " ", "\n", "\t"]
    seen = sorted(set("".join(CORPUS)) - {"\0"})
    rare = [chr(number) for number in draw.sample([*range(0xA0, 0xD800), *range(0xE000, 0x20000)], 2000)]
    rare = [each for each in rare if unicodedata.category(each) not in ("Cn", "Co")]
    for letters in (plain, [*plain, *seen], [*plain, *rare]):
        for _ in range(_RANDOM_TEXTS):
            yield "".join(draw.choices(letters, k=draw.randint(1, 30)))


def _differences(session: Any, tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[str]:
    wanted = [tokenizer.encode(text).ids for text in texts]
    for text, ids in zip(texts, wanted, strict=True):
        found, mask, _ = session.run(None, {"text": np.array([text], dtype=object)})
        if found[0].tolist() != ids or not mask.all():
            yield f"{text[:40]!r} becomes {found[0].tolist()[:12]}, and by tokenizer.json {ids[:12]}"
    found, mask, _ = session.run(None, {"text": np.array(texts, dtype=object)})
    for row, kept, text, ids in zip(found, mask.astype(bool), texts, wanted, strict=True):
        if row[kept].tolist() != ids:
            yield f"{text[:40]!r} becomes {row[kept].tolist()[:12]} in a batch, and by tokenizer.json {ids[:12]}"


def _ways(data: Mapping[str, Any]) -> Iterator[Way]:
    """Iterate over the ways that may fit a tokenizer.json, the plainest first."""
    kind = data["model"].get("type")
    if kind == "WordPiece" and _is_bert(data):
        yield Way(op="BertTokenizer", read_as="BertTokenizer", segmented=bool(data.get("added_tokens")))
    for name in {"BPE": ("GPT2Tokenizer", "LlamaTokenizer"), "Unigram": ("XLMRobertaTokenizer",)}.get(kind, ()):
        for segmented in (False, True) if data.get("added_tokens") else (False,):
            yield Way(op="HfJsonTokenizer", read_as=name, segmented=segmented)


def _is_bert(data: Mapping[str, Any]) -> bool:
    """Say whether it is WordPiece over words that are split as BERT does; a CTC tokenizer has it over letters."""
    steps = [(data.get(step) or {}).get("type") for step in ("normalizer", "pre_tokenizer")]
    return steps == ["BertNormalizer", "BertPreTokenizer"]


def _attributes(data: Mapping[str, Any], settings: Mapping[str, Any], *, way: Way) -> dict[str, Any]:
    """Return the op's attributes: the tokenizer's files, without what the graph adds around the text."""
    if way.op == "HfJsonTokenizer":
        told = {**settings, "tokenizer_class": way.read_as, "add_bos_token": False, "add_eos_token": False}
        bare = {**data, "post_processor": None, "padding": None, "truncation": None}
        if way.segmented:  # knowing them, the op loses text behind what only begins like one: "a <b"
            bare["added_tokens"], told["added_tokens_decoder"] = [], {}
        return {"tokenizer_vocab": json.dumps(bare, ensure_ascii=False), "tokenizer_config": json.dumps(told)}
    vocabulary = data["model"]["vocab"]
    return {
        "vocab_file": "\n".join(sorted(vocabulary, key=vocabulary.__getitem__)),
        "do_lower_case": 0,
        "strip_accents": 0,
    }


def _characters(tokenizer: Tokenizer, *, way: Way) -> dict[str, str]:
    """Return the table of what BERT's normalizer makes of each character, as it takes one at a time.

    Not in the table: private use, which goes as a whole, and characters that only get spaces around them, which the op
    sees to.
    """
    if way.op != "BertTokenizer" or tokenizer.normalizer is None:
        return {}
    table = {}
    for number in chain(*_CHARACTERS):
        character = chr(number)
        made = tokenizer.normalizer.normalize_str(character)
        if made.strip() != character and unicodedata.category(character) != "Co":
            table[character] = made
    return table


def _alone(tokenizer: Tokenizer) -> str:
    """Return the characters that are words of their own, punctuation and ideographs, as ranges of RE2."""
    ranges: list[list[int]] = []
    for number in chain(*_CHARACTERS):
        text = f"a{chr(number)}a"
        if tokenizer.normalizer is not None:
            text = tokenizer.normalizer.normalize_str(text)
        words = tokenizer.pre_tokenizer.pre_tokenize_str(text) if len(text) > 2 else ()
        if [word for word, _ in words] == ["a", chr(number), "a"]:
            if ranges and ranges[-1][1] == number - 1:
                ranges[-1][1] = number
            else:
                ranges.append([number, number])
    return "".join(rf"\x{{{first:X}}}-\x{{{last:X}}}" for first, last in ranges)


def _tokenizer(stage: Path) -> Tokenizer:
    tokenizer = packed_tokenizer.parsed(stage / "tokenizer.json")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _template(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return the ids that stand before and after every text."""
    encoding = tokenizer.encode("a")
    own = [index for index, added in enumerate(encoding.special_tokens_mask) if not added]
    return encoding.ids[: own[0]], encoding.ids[own[-1] + 1 :]


def _settings(stage: Path) -> dict[str, Any]:
    path = stage / "tokenizer_config.json"
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return settings


def _pad_id(tokenizer: Tokenizer, settings: Mapping[str, Any]) -> int:
    """Return the id that fills a row; the mask says that it is no token."""
    token = settings.get("pad_token") or settings.get("eos_token")
    content = token.get("content") if isinstance(token, dict) else token
    found = tokenizer.token_to_id(content) if content else None
    return found if found is not None else 0


def _runtime_errors() -> tuple[type[Exception], ...]:
    """Return the errors that a session raises; the classes have no base in common but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state  # type: ignore[import-untyped]

    return tuple(each for each in vars(state).values() if isinstance(each, type) and issubclass(each, Exception))


def _has_library() -> bool:
    try:
        importlib.import_module("onnxruntime_extensions")
    except ImportError:
        return False
    return True
