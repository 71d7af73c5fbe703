"""Hold a tokenizer.json, as plain ``tokenizers`` reads it, to the source's own tokenizer, there and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from onnx_fleet.errors import ModelInvalid
from onnx_fleet.graphs import packed_tokenizer
from onnx_fleet.source.tokenizers import word_tokenizers
from onnx_fleet.source.tokenizers.conversion import covers, is_ctc

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

PLAIN = (
    "A quick brown fox jumps over the lazy dog.",
    "Prices rose 3.5% to €1,299.00 (see §4b) -- really?!",
    "Ünïcödé, naïve café, e\u0301 and é; ﬁne ligatures",
    "東京は日本の首都です。 中文分词 한국어",
    "Привет, мир! שלום עולם مرحبا بالعالم नमस्ते",
    "def f(x):\n    return x ** 2  # snake_case CamelCase",
    "",
    "long " * 700,
)
"""The texts as people write them, in several scripts; empty and very long ones too."""

HARD = (
    "emoji 👍🏽 👨‍👩‍👧 🇩🇪 done",
    "tabs\tand\nnewlines\r\n  and   spaces ",
    "control \u0000\u200b\ufeff characters",
    "[CLS] special [SEP] tokens <s> in text </s> [MASK] <mask>",
    "<|endoftext|>a<pad>b<unk>c<extra_id_0>",
)
"""The texts on which implementations differ: joined emoji, control characters, special tokens inside a text."""

CORPUS = (*PLAIN, *HARD)

PAIRS = (
    ("Who wrote the letter?", "Nobody knows who wrote the letter."),
    ("東京", "A quick brown fox"),
    ("", "an empty first text"),
)

_EXAMPLES = 3
_TOKENS_BEFORE, _TOKENS_SHOWN = 2, 8

What = Literal["encoding", "pair", "decoding", "decoding without special tokens"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One text on which the two do not agree."""

    what: What
    text: str
    """The first 80 characters of the text."""
    expected: str
    """The result of the source's tokenizer: its first ids, or its text."""
    found: str
    expected_tokens: str = ""
    """The tokens of an encoding or a pair and their ids, from a little before the first that differs."""
    found_tokens: str = ""
    grave: bool
    """Whether to refuse: people write such text, and more than spaces around special tokens differs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """The number of comparisons, and every difference."""

    texts: int
    """The number of texts that were encoded and decoded again, with and without special tokens."""
    pairs: int
    """The number of text pairs; 0 where the source's tokenizer makes none."""
    differences: tuple[Difference, ...]


def prove(path: Path, source: PreTrainedTokenizerBase, *, own_file: bool) -> Proof:
    """Compare a tokenizer.json with the source's tokenizer; padding and truncation baked into either do not count.

    Args:
        own_file: whether tokenizer.json is the source's own. transformers 5 builds some classes anew instead of
            reading it, and then splits around special tokens and control characters in another way; every other
            consumer reads the file. Such differences are kept in the proof, and are not grave. In a file that was
            made, they are.
    """
    packed = packed_tokenizer.parsed(path)
    packed.no_truncation()
    packed.no_padding()
    pairs = PAIRS if _makes_pairs(source) else ()
    differences = (*_encodings(packed, source), *_pairs(packed, source, pairs), *_decodings(packed, source))
    if not own_file:
        differences = tuple(
            replace(each, grave=covers(source, each.text)) if each.what in ("encoding", "pair") else each
            for each in differences
        )
    return Proof(texts=len(CORPUS), pairs=len(pairs), differences=differences)


def require(proof: Proof, *, subject: str, own_file: bool) -> None:
    """Refuse a tokenizer that is not the source's.

    Raises:
        ModelInvalid: the two differ gravely.
    """
    grave = [each for each in proof.differences if each.grave]
    if not grave:
        return
    cause = (
        "the repo's files disagree. To take tokenizer.json as it is, which is what every consumer but transformers "
        "reads, give the entry tokenizer: as-published; the repo's owner can save both again from one tokenizer"
        if own_file
        else "the repo's vocabulary files cannot be converted exactly. A tokenizer.json that belongs to them would do; "
        "tokenizer: none publishes the model without one"
    )
    raise ModelInvalid(f"{subject}: {summary(replace(proof, differences=tuple(grave)))}; {cause}")


def summary(proof: Proof) -> str:
    """Say in how much tokenizer.json and the source's class differ, and what each makes of a few texts."""
    count, examples = len(proof.differences), "; ".join(map(_said, proof.differences[:_EXAMPLES]))
    every = proof.texts * 3 + proof.pairs
    return f"tokenizer.json differs from the source's tokenizer in {count} of {every} comparisons; {examples}"


def _said(difference: Difference) -> str:
    found = difference.found_tokens or difference.found
    expected = difference.expected_tokens or difference.expected
    return f"{difference.what} of {difference.text!r}: the file gives {found}, the class {expected}"


def _makes_pairs(source: PreTrainedTokenizerBase) -> bool:
    if is_ctc(source):
        return False
    try:
        word_tokenizers.encode(source, *PAIRS[0], verbose=False)
    except (ValueError, NotImplementedError, TypeError):
        return False
    return True


def _encodings(packed: Tokenizer, source: PreTrainedTokenizerBase) -> Iterator[Difference]:
    places = word_tokenizers.place_argument(source)
    for text in CORPUS:
        ids, found = ids_of(source, text), word_tokenizers.encode_packed(packed, text, places=places).ids
        if found != ids:
            yield _of_ids("encoding", text, ids, found, packed=packed, source=source, grave=text in PLAIN)


def _pairs(
    packed: Tokenizer, source: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]
) -> Iterator[Difference]:
    places = word_tokenizers.place_argument(source)
    for first, second in pairs:
        wanted = word_tokenizers.encode(source, first, second, truncation=False, padding=False, verbose=False)
        found = word_tokenizers.encode_packed(packed, first, second, places=places)
        text = f"{first} | {second}"
        if found.ids != wanted["input_ids"]:
            yield _of_ids("pair", text, wanted["input_ids"], found.ids, packed=packed, source=source, grave=True)
        elif "token_type_ids" in wanted and found.type_ids != wanted["token_type_ids"]:
            yield _difference("pair", text, wanted["token_type_ids"], found.type_ids, grave=True)


def _decodings(packed: Tokenizer, source: PreTrainedTokenizerBase) -> Iterator[Difference]:
    """Compare decodings of every text's ids, and for CTC of a model's output: repeats, and blanks between them."""
    for text in CORPUS:
        ids = ids_of(source, text)
        if is_ctc(source):
            ids = [each for one in ids for each in (one, one, int(source.pad_token_id or 0))]
        whats: tuple[tuple[bool, What], ...] = ((False, "decoding"), (True, "decoding without special tokens"))
        for skip, what in whats:
            wanted = decoded(source, ids, skip=skip)
            found = packed.decode(ids, skip_special_tokens=skip)
            if found != wanted:
                alike = reads_alike(found, wanted, source=source, ids=ids)
                yield _difference(what, text, wanted, found, grave=text in PLAIN and not alike)


def reads_alike(found: str, wanted: str, *, source: PreTrainedTokenizerBase, ids: Sequence[int]) -> bool:
    """Say whether two texts of the same tokens are equal, but for spaces around special tokens."""
    return found == wanted or (_spaceless(found) == _spaceless(wanted) and _holds_special(source, ids))


def decoded(source: PreTrainedTokenizerBase, ids: list[int], *, skip: bool) -> str:
    """Return the text that the source's tokenizer makes of tokens.

    Args:
        skip: whether to leave special tokens out.
    """
    if skip and is_ctc(source):
        # The blank is a special token, and what repeats around it must stay apart: it goes when repeats are joined.
        kept = {source.pad_token_id, getattr(source, "word_delimiter_token_id", None)}
        ids, skip = [one for one in ids if one in kept or one not in source.all_special_ids], False
    return str(source.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False))


def ids_of(source: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the ids of a text as the source's tokenizer encodes it, special tokens and all."""
    ids: list[int] = word_tokenizers.encode(source, text, truncation=False, padding=False, verbose=False)["input_ids"]
    return ids


def _holds_special(source: PreTrainedTokenizerBase, ids: Sequence[int]) -> bool:
    """Say whether there are unknown or special tokens, around which tokenizers in Python put spaces."""
    return bool(set(ids) & set(source.all_special_ids))


def _spaceless(text: str) -> str:
    return "".join(text.split())


def _of_ids(
    what: What,
    text: str,
    expected: list[int],
    found: list[int],
    *,
    packed: Tokenizer,
    source: PreTrainedTokenizerBase,
    grave: bool,
) -> Difference:
    """Describe how two encodings differ, with the tokens of each where they part."""
    shared = min(len(expected), len(found))
    parted = next((index for index in range(shared) if expected[index] != found[index]), shared)
    window = slice(max(0, parted - _TOKENS_BEFORE), parted - _TOKENS_BEFORE + _TOKENS_SHOWN)

    def shown(ids: list[int], token: Callable[[int], object]) -> str:
        tokens = ", ".join(f"{id_} {token(id_)!r}" for id_ in ids[window])
        before, behind = "…, " if window.start else "", ", …" if len(ids) > window.stop else ""
        return f"[{before}{tokens}{behind}]"

    return replace(
        _difference(what, text, expected, found, grave=grave),
        expected_tokens=shown(expected, source.convert_ids_to_tokens),
        found_tokens=shown(found, packed.id_to_token),
    )


def _difference(what: What, text: str, expected: object, found: object, *, grave: bool) -> Difference:
    return Difference(what=what, text=text[:80], expected=str(expected)[:200], found=str(found)[:200], grave=grave)
