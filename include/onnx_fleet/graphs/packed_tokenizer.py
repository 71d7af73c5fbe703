"""A tokenizer.json as consumers without transformers read it, parsed once for all in a process that encode with it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def parsed(path: Path) -> Tokenizer:
    """Return the tokenizer of a file. Parsing the vocabulary of a BERT takes 30 ms, and a proof encodes in five places.

    Who reads the same bytes is given the same tokenizer, so each sets padding and truncation before it encodes, and
    changes nothing else.
    """
    return _of_bytes(path.read_bytes())


@lru_cache(maxsize=2)
def _of_bytes(data: bytes) -> Tokenizer:
    from tokenizers import Tokenizer

    return Tokenizer.from_buffer(data)
