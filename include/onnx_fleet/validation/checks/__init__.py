"""The checks: small functions, each of which proves one thing about the graphs of a bundle and yields rows.

A check yields a row for everything that it compared, whatever it found; ``case`` says how to make the input again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from onnx_fleet.validation.checks import (
    ctc,
    decoder,
    dual,
    encoder,
    graph_files,
    packed_files,
    pipeline,
    predictions,
    sentence,
    seq2seq,
    tolerances,
    vision,
    vlm,
    whole_model,
)
from onnx_fleet.validation.checks.context import Check, CheckContext
from onnx_fleet.validation.checks.single_graph import Feeds
from onnx_fleet.validation.checks.tolerances import Probe

__all__ = ["CHECKS", "Check", "CheckContext", "held_to_its_rounding"]


def _probe(subject: CheckContext) -> Feeds:
    """Return what its family's plain model is fed to ask something of it: two rows or so."""
    return _PROBES[subject.item.family](subject)


_OF_ALL = (*whole_model.checks(_probe), *graph_files.CHECKS, *packed_files.CHECKS)

CHECKS: Mapping[str, tuple[Check, ...]] = {
    "encoder": (*_OF_ALL, *encoder.CHECKS, *predictions.CHECKS, *pipeline.CHECKS, *sentence.CHECKS),
    "decoder": (*_OF_ALL, *decoder.CHECKS),
    "vision": (*_OF_ALL, *vision.CHECKS, *pipeline.CHECKS),
    "seq2seq": (*_OF_ALL, *seq2seq.CHECKS),
    "speech": (*_OF_ALL, *ctc.CHECKS, *seq2seq.CHECKS_OF_SPEECH, *pipeline.CHECKS),
    "dual": (*_OF_ALL, *dual.CHECKS, *pipeline.CHECKS),
    "vlm": (*_OF_ALL, *vlm.CHECKS),
}
"""The checks of each family, in the order in which they are run."""


def held_to_its_rounding(subject: CheckContext) -> CheckContext:
    """Return the same subject with the tolerances that its entry states, or else those that its model needs."""
    return replace(subject, tolerances=tolerances.tolerances(subject, probe=_probe))


def _of_sound(subject: CheckContext) -> Feeds:
    return seq2seq.probe(subject) if seq2seq.decodes(subject) else ctc.probe(subject)


_PROBES: Mapping[str, Probe] = {
    "encoder": encoder.probe,
    "decoder": decoder.probe,
    "vision": vision.probe,
    "seq2seq": seq2seq.probe,
    "speech": _of_sound,
    "dual": dual.probe,
    "vlm": vlm.probe,
}
