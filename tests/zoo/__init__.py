"""Tiny real architectures: every family's models of transformers, small enough to export by the hundred.

Each is made from its real configuration class, two layers deep, with weights that make every fault of a graph visible.
"""

from __future__ import annotations

from zoo.architecture import Architecture
from zoo.decoder import DECODERS
from zoo.detection import DETECTORS
from zoo.dual import DUAL_ENCODERS
from zoo.encoder import ENCODERS
from zoo.seq2seq import SEQ2SEQ
from zoo.speech import SPEECH
from zoo.towers import TOWERS
from zoo.vision import VISION
from zoo.vlm import VLMS

ARCHITECTURES: tuple[Architecture, ...] = (
    *ENCODERS,
    *DECODERS,
    *SEQ2SEQ,
    *VISION,
    *DETECTORS,
    *TOWERS,
    *SPEECH,
    *DUAL_ENCODERS,
    *VLMS,
)
"""Every row of every family's table."""

__all__ = ["ARCHITECTURES", "Architecture", "of_family"]


def of_family(family: str) -> tuple[Architecture, ...]:
    """One family's rows."""
    return tuple(row for row in ARCHITECTURES if row.family == family)
