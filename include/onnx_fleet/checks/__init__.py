"""The checks: small functions, each proving one thing about the graphs of a bundle, each giving rows.

A check yields a row for everything that it compared, whatever it found; ``case`` says how to make the input again.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnx_fleet.checks import ctc, decoder, dual, encoder, files, seq2seq, vision, vlm
from onnx_fleet.checks.subject import Check, Subject

__all__ = ["CHECKS", "Check", "Subject"]

CHECKS: Mapping[str, tuple[Check, ...]] = {
    "encoder": (*files.CHECKS, *encoder.CHECKS),
    "decoder": (*files.CHECKS, *decoder.CHECKS),
    "vision": (*files.CHECKS, *vision.CHECKS),
    "seq2seq": (*files.CHECKS, *seq2seq.CHECKS),
    "speech": (*files.CHECKS, *ctc.CHECKS, *seq2seq.CHECKS_OF_SPEECH),
    "dual": (*files.CHECKS, *dual.CHECKS),
    "vlm": (*files.CHECKS, *vlm.CHECKS),
}
"""By family, in the order in which they are run."""
