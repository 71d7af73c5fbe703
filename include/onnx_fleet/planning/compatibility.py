"""Whether an entry's settings go with its task."""

from __future__ import annotations

from typing import Final

from onnx_fleet.entities.entry import DECODER_FORMS
from onnx_fleet.entities.tasks import TASKS
from onnx_fleet.planning.calibration.source import Kind, kind
from onnx_fleet.recipes import RECIPES

_CUT_BY_FORM: Final = "seq2seq"


def misfit(task: object, *, recipe: object, decoder_form: object, calibrated: object = None) -> str | None:
    """Say why a task does not go with an entry's other settings; what is unknown or left out is not judged here.

    Args:
        calibrated: the calibration, where variants are wanted.
    """
    if not isinstance(task, str) or task not in TASKS:
        return None
    fitting = RECIPES[recipe].tasks if isinstance(recipe, str) and recipe in RECIPES else ()
    if fitting and task not in fitting:
        tasks = ", ".join(fitting)
        return f"recipe '{recipe}' is for {tasks}, not for {task}; leave the recipe out, or name one of these tasks"
    if decoder_form in DECODER_FORMS[1:] and TASKS[task].family != _CUT_BY_FORM:
        tasks = ", ".join(task.name for task in TASKS.values() if task.family == _CUT_BY_FORM)
        return f"decoder_form '{decoder_form}' is for {tasks}, not for {task}; leave it out, or name one of these tasks"
    return calibration_misfit(calibrated, task=task) if isinstance(calibrated, str) else None


_ASKED_WITH_TEXT = ("encoder", "decoder", "seq2seq")


def calibration_misfit(name: str, *, task: str) -> str | None:
    """Say why a task's variants are not tuned with it, and what to write instead."""
    wanted: Kind | None = "image" if "image" in TASKS[task].takes else None
    if TASKS[task].family in _ASKED_WITH_TEXT:
        wanted = "text"
    if wanted is None:
        return f"calibration '{name}' is not for {task}, which is tuned with what its checks feed; leave it out"
    if kind(name) == wanted:
        return None
    if wanted == "image":
        return (
            f"calibration '{name}' is text, and {task} is tuned with pictures; name a folder of them, or leave it out"
        )
    return f"calibration '{name}' is no text, which {task} is tuned with; name a .txt or .jsonl file, or leave it out"
