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
"""The argument for words' places -> a place; which one it is has no effect on the tokens."""
_QUESTIONS_WHOLE = frozenset({"xpaths"})
"""MarkupLM's takes the first text of a pair as one word, LayoutLM's in words as the second."""


def place_argument(source: PreTrainedTokenizerBase) -> str | None:
    """What a tokenizer calls the places of words; None where it takes plain text."""
    taken = inspect.signature(type(source).__call__).parameters
    return next((name for name in _PLACES if name in taken), None)


def encode(source: PreTrainedTokenizerBase, text: str, pair: str | None = None, **settings: Any) -> BatchEncoding:
    """What the source's tokenizer makes of a text, or of two.

    Args:
        settings: of the tokenizer's call.
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
    """What a tokenizer.json makes of the same, read by plain tokenizers.

    Args:
        places: place_argument of the source's tokenizer.
    """
    if places is None:
        return packed.encode(text, pair)
    if pair is None:
        return packed.encode(text.split(), is_pretokenized=True)
    question = [text] if places in _QUESTIONS_WHOLE else text.split()
    return packed.encode(question, pair.split(), is_pretokenized=True)
