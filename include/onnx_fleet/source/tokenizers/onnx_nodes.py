"""The nodes of tokenizer.onnx: rows of text, special tokens within them, words within those; and padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import onnx

DOMAIN = "ai.onnx.contrib"
"""The domain of onnxruntime-extensions' operators."""

TEXTS = {"any_character": r"(?s)(.)", "private_use": r"\p{Co}", "no_text": "", "unchanged": "\ufdd0"}
"""The texts that the normalization of a WordPiece text is written with; U+FDD0 stands in no text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """The way in which the custom op is used; which way is exact depends on the tokenizer: trying tells."""

    op: Literal["HfJsonTokenizer", "BertTokenizer"]
    read_as: str
    """The class of transformers as which HfJsonTokenizer takes the file."""
    segmented: bool
    """Whether the graph finds special tokens inside a text, because the op does not know them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """The custom op, and what it is told."""

    way: Way
    attributes: Mapping[str, Any]
    characters: Mapping[str, str]
    """The result of normalization for each character for which the op's own is not the tokenizer's."""


def nodes_of(op: Op, *, left: bool) -> list[onnx.NodeProto]:
    """Return the nodes between ``text`` and the three outputs; their constants are the graph's initializers."""
    import onnx
    from onnx import helper

    node = helper.make_node
    int64 = onnx.TensorProto.INT64
    ids = onnx.helper.make_sequence_type_proto(helper.make_tensor_type_proto(int64, None))
    row = helper.make_graph(
        [
            node("Reshape", ["row", "ones"], ["row_index"]),
            node("Gather", ["text", "row_index"], ["one_text"]),
            *(_segmented(op) if op.way.segmented else _plain("one_text", "bare_ids", op)),
            node("Concat", ["prefix", "bare_ids", "suffix"], ["whole_ids"], axis=0),
            node("Size", ["whole_ids"], ["length"]),
            node("SequenceInsert", ["rows_before", "whole_ids"], ["rows_after"]),
            node("Identity", ["row_goes_on"], ["row_going"]),
        ],
        "tokenize_a_row",
        [value_info("row", int64, []), value_info("row_goes_on", onnx.TensorProto.BOOL, []),
         helper.make_value_info("rows_before", ids)],
        [value_info("row_going", onnx.TensorProto.BOOL, []), helper.make_value_info("rows_after", ids),
         value_info("length", int64, [])],
    )  # fmt: skip
    pads = ["missing", "zeros"] if left else ["zeros", "missing"]
    pad = helper.make_graph(
        [
            node("SequenceAt", ["rows", "padded_row"], ["unpadded"]),
            node("Size", ["unpadded"], ["own_length"]),
            node("Sub", ["total", "own_length"], ["missing_scalar"]),
            node("Reshape", ["missing_scalar", "ones"], ["missing"]),
            node("Concat", pads, ["pads"], axis=0),
            node("Pad", ["unpadded", "pads", "pad"], ["padded"]),
            node("Identity", ["pad_goes_on"], ["pad_going"]),
        ],
        "pad_a_row",
        [value_info("padded_row", int64, []), value_info("pad_goes_on", onnx.TensorProto.BOOL, [])],
        [value_info("pad_going", onnx.TensorProto.BOOL, []), value_info("padded", int64, ["sequence_length"])],
    )
    return [
        node("Size", ["text"], ["count"]),
        node("SequenceEmpty", [], ["no_rows"], dtype=int64),
        node("Loop", ["count", "always", "no_rows"], ["rows", "lengths"], body=row),
        node("Concat", ["zeros", "lengths"], ["lengths_or_zero"], axis=0),
        node("ReduceMax", ["lengths_or_zero"], ["total"], keepdims=0),
        node("Loop", ["count", "always"], ["input_ids"], body=pad),
        *_mask(left=left),
        node("Mul", ["attention_mask", "zero"], ["token_type_ids"]),
    ]


def _mask(*, left: bool) -> list[onnx.NodeProto]:
    import onnx
    from onnx import helper

    node = helper.make_node
    nodes = [
        node("Range", ["zero", "total", "one"], ["positions"]),
        node("Unsqueeze", ["lengths", "ones"], ["length_column"]),
    ]
    if left:
        nodes += [
            node("Sub", ["total", "length_column"], ["first"]),
            node("GreaterOrEqual", ["positions", "first"], ["real"]),
        ]
    else:
        nodes += [node("Less", ["positions", "length_column"], ["real"])]
    return [*nodes, node("Cast", ["real"], ["attention_mask"], to=onnx.TensorProto.INT64)]


def _plain(text: str, ids: str, op: Op) -> list[onnx.NodeProto]:
    """Return the nodes that turn one text into the ids of all that is in it, int64 [count]."""
    from onnx import helper

    node = helper.make_node
    raw = f"{ids}_as_given"
    if op.way.op == "HfJsonTokenizer":
        return [
            node(op.way.op, [text], [raw], domain=DOMAIN, **op.attributes),
            node("Reshape", [raw, "minus_one"], [ids]),
        ]
    words = ["words", "word_begin", "word_end_", "word_rows"]
    return [
        *_normalized(text, "normalized_text", op.characters),
        node("StringRegexSplitWithOffsets", ["normalized_text", "word_end", "word_itself"], words, domain=DOMAIN),
        node("Size", ["words"], ["word_count"]),
        node("Loop", ["word_count", "always", "nothing"], [ids], body=_word(op)),
    ]


def _word(op: Op) -> onnx.GraphProto:
    """Make the graph of one word, unknown as a whole if any part is; the op would return the parts that it knows."""
    import onnx
    from onnx import helper

    node = helper.make_node
    int64 = onnx.TensorProto.INT64
    given = ["framed_ids", "word_types", "word_mask", "word_offsets"]
    whole, parts = (
        helper.make_graph([node("Identity", [ids], [name])], name, [], [value_info(name, int64, ["count"])])
        for ids, name in (("unknown", "unknown_word"), ("part_ids", "known_word"))
    )
    return helper.make_graph(
        [
            node("Reshape", ["word_number", "ones"], ["word_index"]),
            node("Gather", ["words", "word_index"], ["word"]),
            node(op.way.op, ["word"], given, domain=DOMAIN, **op.attributes),
            node("Slice", ["framed_ids", "ones", "minus_one"], ["part_ids"]),  # without [CLS] and [SEP]
            node("Equal", ["part_ids", "unknown"], ["part_unknown"]),
            node("Cast", ["part_unknown"], ["part_flags"], to=onnx.TensorProto.INT32),
            node("Cast", ["zeros"], ["no_flags"], to=onnx.TensorProto.INT32),
            node("Concat", ["part_flags", "no_flags"], ["flags"], axis=0),
            node("ReduceMax", ["flags"], ["flag"], keepdims=0),
            node("Cast", ["flag"], ["is_unknown"], to=onnx.TensorProto.BOOL),
            node("If", ["is_unknown"], ["word_ids"], then_branch=whole, else_branch=parts),
            node("Concat", ["words_before", "word_ids"], ["words_after"], axis=0),
            node("Identity", ["word_goes_on"], ["word_going"]),
        ],
        "tokenize_a_word",
        [value_info("word_number", int64, []), value_info("word_goes_on", onnx.TensorProto.BOOL, []),
         value_info("words_before", int64, ["count"])],
        [value_info("word_going", onnx.TensorProto.BOOL, []), value_info("words_after", int64, ["count"])],
    )  # fmt: skip


def _normalized(text: str, normalized: str, characters: Mapping[str, str]) -> list[onnx.NodeProto]:
    """Return the nodes that look up every character; one that the table does not have stays."""
    from onnx import helper

    node = helper.make_node
    if not characters:
        return [node("Identity", [text], [normalized])]
    parts = ["characters", "character_begin", "character_end", "character_rows"]
    return [
        node("StringRegexReplace", [text, "private_use", "no_text"], ["public_text"], domain=DOMAIN),
        node("StringRegexSplitWithOffsets", ["public_text", "any_character", "any_character"], parts, domain=DOMAIN),
        node(
            "LabelEncoder", ["characters"], ["looked_up"], domain="ai.onnx.ml", default_string=TEXTS["unchanged"],
            keys_strings=list(characters), values_strings=list(characters.values()),
        ),
        node("Equal", ["looked_up", "unchanged"], ["stays"]),
        node("Where", ["stays", "characters", "looked_up"], ["new_characters"]),
        node("StringJoin", ["new_characters", "no_text", "zeros"], [normalized], domain=DOMAIN),
    ]  # fmt: skip


def _segmented(op: Op) -> list[onnx.NodeProto]:
    """Split the text at special tokens; look those up, and leave what is between them to the op."""
    import onnx
    from onnx import helper

    node = helper.make_node
    int64 = onnx.TensorProto.INT64
    known = helper.make_graph(
        [
            node("ArgMax", ["hit"], ["which"], axis=0, keepdims=1),
            node("Gather", ["special_ids", "which"], ["special_id"]),
        ],
        "a_special_token", [], [value_info("special_id", int64, ["count"])],
    )  # fmt: skip
    between = helper.make_graph(
        _plain("piece", "piece_ids", op),
        "text_between", [], [value_info("piece_ids", int64, ["count"])],
    )  # fmt: skip
    body = helper.make_graph(
        [
            node("Reshape", ["piece_number", "ones"], ["piece_index"]),
            node("Gather", ["pieces", "piece_index"], ["piece"]),
            node("Equal", ["piece", "specials"], ["equal"]),
            node("Cast", ["equal"], ["hit"], to=onnx.TensorProto.INT32),
            node("ReduceMax", ["hit"], ["any_hit"], keepdims=0),
            node("Cast", ["any_hit"], ["is_special"], to=onnx.TensorProto.BOOL),
            node("If", ["is_special"], ["new_ids"], then_branch=known, else_branch=between),
            node("Concat", ["ids_before", "new_ids"], ["ids_after"], axis=0),
            node("Identity", ["piece_goes_on"], ["piece_going"]),
        ],
        "tokenize_a_piece",
        [value_info("piece_number", int64, []), value_info("piece_goes_on", onnx.TensorProto.BOOL, []),
         value_info("ids_before", int64, ["count"])],
        [value_info("piece_going", onnx.TensorProto.BOOL, []), value_info("ids_after", int64, ["count"])],
    )  # fmt: skip
    parts = ["pieces", "piece_begin", "piece_end", "piece_rows"]
    return [
        node("StringRegexSplitWithOffsets", ["one_text", "pattern", "pattern"], parts, domain=DOMAIN),
        node("Size", ["pieces"], ["piece_count"]),
        node("Loop", ["piece_count", "always", "nothing"], ["bare_ids"], body=body),
    ]


def value_info(name: str, kind: int, shape: Sequence[str | int]) -> onnx.ValueInfoProto:
    """Describe an input or output."""
    from onnx import helper

    return helper.make_tensor_value_info(name, kind, shape)
