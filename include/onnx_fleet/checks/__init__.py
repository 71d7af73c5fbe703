"""The checks: small functions, each proving one thing about the graphs of a bundle, each giving rows.

A check yields a row for everything that it compared, whatever it found; ``case`` says how to make the input again.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnx_fleet.checks import answers, ctc, decoder, dual, encoder, files, packed, seq2seq, vision, vlm
from onnx_fleet.checks.subject import Check, Subject

__all__ = ["CHECKS", "Check", "Subject"]

_OF_ALL = (*files.CHECKS, *packed.CHECKS)

CHECKS: Mapping[str, tuple[Check, ...]] = {
    "encoder": (*_OF_ALL, *encoder.CHECKS, *answers.CHECKS),
    "decoder": (*_OF_ALL, *decoder.CHECKS),
    "vision": (*_OF_ALL, *vision.CHECKS),
    "seq2seq": (*_OF_ALL, *seq2seq.CHECKS),
    "speech": (*_OF_ALL, *ctc.CHECKS, *seq2seq.CHECKS_OF_SPEECH),
    "dual": (*_OF_ALL, *dual.CHECKS),
    "vlm": (*_OF_ALL, *vlm.CHECKS),
}
"""By family, in the order in which they are run."""
