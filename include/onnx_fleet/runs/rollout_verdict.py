"""The verdict on a wave: whether the change that its models followed is good, by how each of them ended.

Every model has to be published in the place of the version in use: one that fails in a step, or is held by its gates,
is a fault of the change, since its commit and its entry are those of the version in use. What says nothing about the
change does not count: a store or a Hub that does not answer leaves a model undecided, and a repo that is gone, or that
a rule refuses, leaves the wave. Gates that only warn count together: one model that is measured slower may be noise, a
tenth of a wave is not.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from onnx_fleet import errors
from onnx_fleet.errors import ModelGated, ModelNotFound, RefusedByRule, Retryable, StoreDenied, StoreNotFound
from onnx_fleet.runs.record import Record
from onnx_fleet.runs.rollout import Outcome, Rollout, Wave

MAX_ATTEMPTS: Final = 3
"""The number of runs after which a wave that is still undecided stops its rollout."""
WARNED_SHARE: Final = 0.1
"""The share of a wave's models with a finding of one gate from which on it is no noise."""
_WARNED_LEAST: Final = 2
_NOT_JUDGED: Final = ("comparison",)
"""The gates whose findings are about the version before, or about the comparison itself."""
_WORKER_LOST: Final = "WorkerLost"
_NAMES: Final = 10


def outcome_of(record: Record) -> Outcome | None:
    """Return how a model of a wave ended; None where the record leaves that open."""
    if record.state in ("published", "unchanged"):
        return Outcome(verdict="passed", version=record.version, findings=record.findings)
    if record.state == "waiting" or (record.state == "failed" and not _is_about_the_model(record.error)):
        return None
    left = record.state == "refused" or isinstance(_kind(record.error), ModelNotFound | ModelGated | RefusedByRule)
    return Outcome(
        verdict="left" if left else "failed",
        version=record.version,
        step=record.step,
        error=record.error,
        message=record.message,
        findings=record.findings,
    )


def judged(rollout: Rollout, records: Iterable[Record]) -> Rollout:
    """Return a running rollout with what a run found about its wave; a wave that is decided ends here.

    A good wave is followed by the next one, and the last one ends the rollout. One that is not good stops it.
    """
    wave = rollout.wave
    open_models = set(wave.undecided)
    found = {
        record.model_id: outcome
        for record in records
        if record.model_id in open_models and (outcome := outcome_of(record))
    }
    wave = replace(wave, outcomes={**wave.outcomes, **found})
    if faults := _faults(wave):
        return replace(rollout.with_wave(replace(wave, reason="; ".join(faults))), state="stopped")
    if wave.undecided:
        attempted = any(record.model_id in wave.undecided and record.state == "failed" for record in records)
        wave = replace(wave, attempts=wave.attempts + attempted)
        if wave.attempts < MAX_ATTEMPTS:
            return rollout.with_wave(wave)
        reason = f"after {wave.attempts} runs {_listed(wave.undecided, wave)} could not be exported or published"
        return replace(rollout.with_wave(replace(wave, reason=reason)), state="stopped")
    through = rollout.with_wave(replace(wave, reason=_good(wave)))
    if rollout.current + 1 == len(rollout.waves):
        return replace(through, state="done")
    return replace(through, current=rollout.current + 1)


def _faults(wave: Wave) -> list[str]:
    """Say why a wave is not good; empty while nothing speaks against it."""
    faults = []
    failed = [name for name in wave.ended("failed") if wave.outcomes[name].error]
    held = [name for name in wave.ended("failed") if not wave.outcomes[name].error]
    if failed:
        faults.append(f"{_listed(failed, wave)} failed")
    if held:
        faults.append(f"{_listed(held, wave)} held back by the gates")
    warned: defaultdict[str, list[str]] = defaultdict(list)
    for name in wave.ended("passed"):
        for gate in {finding.partition(":")[0] for finding in wave.outcomes[name].findings}:
            warned[gate].append(name)
    least = max(_WARNED_LEAST, math.ceil(len(wave.members) * WARNED_SHARE))
    faults += [
        f"{_listed(names, wave)} worse than before by the gate {gate}"
        for gate, names in sorted(warned.items())
        if len(names) >= least and gate not in _NOT_JUDGED
    ]
    return faults


def _good(wave: Wave) -> str:
    left = wave.ended("left")
    said = f"{len(wave.ended('passed'))} of {len(wave.members)} models are published and pass their gates"
    return f"{said}, {len(left)} say nothing about the change" if left else said


def _listed(names: Iterable[str], wave: Wave) -> str:
    names = list(names)
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return f"{len(names)} of {len(wave.members)} models ({', '.join(names[:_NAMES])}{more})"


def _is_about_the_model(error: str | None) -> bool:
    """Say whether an error tells something about the model or the change, and not about the Hub, store or worker."""
    return error != _WORKER_LOST and not isinstance(_kind(error), Retryable | StoreDenied | StoreNotFound)


def _kind(error: str | None) -> errors.OnnxFleetError | None:
    return errors.named(error, "") if error else None
