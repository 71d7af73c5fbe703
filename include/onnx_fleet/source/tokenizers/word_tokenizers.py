"""Tokenizers that take words, each with its place on a page or in markup: asked in the same way as all others.

What such a tokenizer makes of a text is what it makes of the text's words; without transformers, the packed
tokenizer.json is told that the text is in words already.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer
    from transformers import BatchEncoding, PreTrainedTokenizerBase

_PLACES: Mapping[str, object] = {"boxes": [0, 0, 0, 0], "xpaths": "/html/body"}
"""The place to pass for each argument of words' places; which one it is has no effect on the tokens."""
_QUESTIONS_WHOLE = frozenset({"xpaths"})
"""The place arguments of tokenizers that take the first text of a pair as one word: MarkupLM's."""


def place_argument(source: PreTrainedTokenizerBase) -> str | None:
    """Return a tokenizer's name for the places of words; None where it takes plain text."""
    taken = inspect.signature(type(source).__call__).parameters
    return next((name for name in _PLACES if name in taken), None)


def encode(source: PreTrainedTokenizerBase, text: str, pair: str | None = None, **settings: Any) -> BatchEncoding:
    """Encode a text, or two, with the source's tokenizer.

    Args:
        settings: the arguments of the tokenizer's call.
    """
    places = place_argument(source)
    if places is None:
        plain: BatchEncoding = source(text, pair, **settings)
        return plain
    words = (text if pair is None else pair).split()
    given = (words,) if pair is None else (text, words)
    told: BatchEncoding = source(*given, **{places: [_PLACES[places]] * len(words)}, **settings)
    return told


def encode_packed(packed: Tokenizer, text: str, pair: str | None = None, *, places: str | None) -> Encoding:
    """Encode the same with a tokenizer.json, read by plain tokenizers.

    Args:
        places: the place_argument of the source's tokenizer.
    """
    if places is None:
        return packed.encode(text, pair)
    if pair is None:
        return packed.encode(text.split(), is_pretokenized=True)
    question = [text] if places in _QUESTIONS_WHOLE else text.split()
    return packed.encode(question, pair.split(), is_pretokenized=True)
