"""What a tokenizer puts around a text, so that random words may stand in it. Nothing is imported for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What the tokenizer puts around a text."""

    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    word: int = 1
    """An id that is not special, for rows of which only the size matters."""

    def around(self, words: np.ndarray) -> np.ndarray:
        """Return rows in which the frame has taken the place of the first and last words: int64, as ``words``.

        In rows that are too short for it and one word, only the last token of the frame is put: the end token, which a
        tokenizer keeps whatever it cuts.

        Args:
            words: int64 [..., length].
        """
        framed, length = words.copy(), words.shape[-1]
        whole = len(self.prefix) + len(self.suffix) < length
        prefix, suffix = (self.prefix, self.suffix) if whole else ((), self.suffix[-1:])
        framed[..., : len(prefix)] = prefix
        framed[..., length - len(suffix) :] = suffix
        return framed
