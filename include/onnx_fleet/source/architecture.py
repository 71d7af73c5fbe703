"""The class and the task of a repo, from the entry, config.json and the Hub's tag.

It is decided from names alone, by transformers' own tables, before anything is downloaded.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from onnx_fleet.conventions import auto_mappings
from onnx_fleet.entities import tasks
from onnx_fleet.entities.entry import Entry
from onnx_fleet.entities.tasks import TASKS, Task
from onnx_fleet.errors import ExportUnsupported, ModelInvalid

_NAMES_SHOWN = 5
"""The most classes or tasks that a message lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """The architecture and tag that a repo declares."""

    architecture: str | None
    """The first of config.json's ``architectures``."""
    model_type: str | None
    pipeline_tag: str | None
    """The Hub's name for what the model does."""
    own_code: bool = False
    """Whether the class is the repo's own, and transformers' tables do not speak of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """The class, model type and task of the export."""

    architecture: str
    model_type: str
    task: str


def declared(config: Mapping[str, object], *, pipeline_tag: str | None, own_code: bool) -> Declared:
    """Return what a config.json says; a value that cannot be a name counts as left out."""
    architectures, model_type = config.get("architectures"), config.get("model_type")
    first = architectures[0] if isinstance(architectures, list) and architectures else None
    return Declared(
        architecture=first if isinstance(first, str) and first else None,
        model_type=model_type if isinstance(model_type, str) and model_type else None,
        pipeline_tag=pipeline_tag,
        own_code=own_code,
    )


def decide(entry: Entry, said: Declared, *, subject: str) -> Decided:
    """Decide the class, its model type and the task of a model.

    Raises:
        ModelInvalid: nothing says which class or which model type it is.
        ExportUnsupported: transformers has no such class, or no task fits it.
    """
    if entry.task is not None and entry.task not in TASKS:
        raise ExportUnsupported(f"{subject}: unknown task {entry.task!r}; write one of {', '.join(sorted(TASKS))}")
    architecture = entry.architecture or said.architecture
    if said.own_code or not auto_mappings.installed():
        return _as_declared(entry, said, architecture, subject=subject)
    model_type = _model_type(entry, said, architecture, subject=subject)
    if architecture is None:
        return _of_model_type(entry, said, model_type, subject=subject)
    if not auto_mappings.has_class(architecture):
        raise ExportUnsupported(
            f"{subject}: transformers{_release()} has no class {architecture}, which config.json names; if the weights"
            f" are those of a class that it has, write architecture: with its name"
            f"{_such_as(_heads(model_type))}, else remove the entry"
        )
    return Decided(
        architecture=architecture,
        model_type=model_type,
        task=_task(entry, said, architecture, model_type, subject=subject),
    )


def fitting(architecture: str, model_type: str) -> tuple[str, ...]:
    """Return the tasks whose auto class loads this very class for the model type."""
    return tuple(
        task.name for task in TASKS.values() if architecture in _classes(task, model_type) and _serves(task, model_type)
    )


def _as_declared(entry: Entry, said: Declared, architecture: str | None, *, subject: str) -> Decided:
    """Decide for a class of the repo's own, by names alone."""
    if architecture is None or said.model_type is None:
        lacking = "architectures" if architecture is None else "model_type"
        raise ModelInvalid(f"{subject}: config.json has no '{lacking}'; name a revision that has")
    own = tasks.of_architecture(architecture)
    tag = said.pipeline_tag
    task = entry.task or (tag if tag in TASKS else None) or (own.name if own else None)
    if task is None:
        raise _no_task(entry, said, architecture, said.model_type, subject=subject)
    return Decided(architecture=architecture, model_type=said.model_type, task=task)


def _model_type(entry: Entry, said: Declared, architecture: str | None, *, subject: str) -> str:
    """Return config.json's model type; the class's own, where there is none or the entry names a class of another."""
    if said.model_type is not None and not entry.architecture:
        if not auto_mappings.knows_type(said.model_type):
            raise ExportUnsupported(
                f"{subject}: transformers{_release()} has no model type {said.model_type!r}"
                f"{f' ({architecture})' if architecture else ''}, and the repo brings no code for it; remove the entry,"
                f" or come back with a transformers that has it"
            )
        return said.model_type
    types = auto_mappings.model_types(architecture) if architecture else ()
    if types:
        return said.model_type if said.model_type in types and said.model_type else types[0]
    if architecture is None:
        raise ModelInvalid(
            f"{subject}: config.json has neither 'architectures' nor 'model_type', so nothing says which class the"
            f" weights are of; write architecture: with its name, such as BertForMaskedLM"
        )
    near = difflib.get_close_matches(architecture, auto_mappings.classes(), n=1)
    raise ExportUnsupported(
        f"{subject}: transformers{_release()} has no class {architecture};"
        f" {f'did you mean {near[0]}?' if near else 'write architecture: with the name of one that it has'}"
    )


def _of_model_type(entry: Entry, said: Declared, model_type: str, *, subject: str) -> Decided:
    """Decide for a model type the class that the task's auto class has, where config.json names none."""
    tag = said.pipeline_tag
    task = entry.task or (tag if tag in TASKS else None)
    serving = _serving(model_type)
    if task is None:
        raise ModelInvalid(
            f"{subject}: config.json has no 'architectures', and {_tag(said)}; write task: with what the model was"
            f" trained for{_such_as(serving)}, or architecture: with its class{_such_as(_heads(model_type))}"
        )
    if task not in serving:
        raise ExportUnsupported(
            f"{subject}: transformers{_release()} has no {task} model of type {model_type!r}; write task: with another"
            f" one{_such_as(serving)}, or remove the entry"
        )
    return Decided(architecture=_classes(TASKS[task], model_type)[0], model_type=model_type, task=task)


def _task(entry: Entry, said: Declared, architecture: str, model_type: str, *, subject: str) -> str:
    """Return the entry's task, else the Hub's pipeline tag where the class serves it, else what the class is for.

    Raises:
        ExportUnsupported: none of them is a task that the class serves.
    """
    own, tag = _own(architecture, model_type), said.pipeline_tag
    wanted = entry.task or (tag if tag in TASKS else None)
    if wanted is not None:
        task = TASKS[wanted]
        if not entry.task and own is not None and _class_decides(own, task, architecture, model_type):
            return own.name
        other = _is_for_another(architecture, model_type) and (_is_bare(task) or not entry.task)
        if _serves(task, model_type) and not other:
            return wanted
    elif own is not None and (tag is None or not _is_bare(own)):
        return own.name
    raise _no_task(entry, said, architecture, model_type, subject=subject)


def _class_decides(own: Task, tagged: Task, architecture: str, model_type: str) -> bool:
    """Say whether a class with a head overrules the tag: the tag's task would load a class with another head.

    The Hub tags Flan-T5 ``text-generation``, whose class is an encoder-decoder's. Where the tag asks for features, any
    class has them.
    """
    if own is tagged or _is_bare(own) or _is_bare(tagged) or own.takes != tagged.takes:
        return False
    return architecture in _classes(own, model_type) and architecture not in _classes(tagged, model_type)


def _own(architecture: str, model_type: str) -> Task | None:
    """Return the task that a class is for: of those whose auto class loads it, the one whose ending its name has."""
    named = tasks.of_architecture(architecture)
    if named is not None and architecture in named.architectures and _serves(named, model_type):
        return named
    found = [
        task for task in TASKS.values() if architecture in _classes(task, model_type) and _serves(task, model_type)
    ]
    heads = [task for task in found if not _is_bare(task)]
    if not found:
        # A class of another model type than config.json's: transformers goes by the type.
        return named if named is not None and not _is_bare(named) and _serves(named, model_type) else None
    if heads:
        return named if named in heads else heads[0]
    if _is_for_another(architecture, model_type):
        return None
    text, images = TASKS["feature-extraction"], TASKS["image-feature-extraction"]
    return images if auto_mappings.is_vision_tower(architecture) or text not in found else text


def _is_for_another(architecture: str, model_type: str) -> bool:
    """Say whether a class is for something that is no task here: VitsModel speaks, though named as a bare model."""
    heads = [name for name in fitting(architecture, model_type) if not _is_bare(TASKS[name])]
    return not heads and bool(auto_mappings.purpose(architecture))


def _is_bare(task: Task) -> bool:
    """Say whether a task is that of a model without a head."""
    return task.auto_classes == ("AutoModel",)


def _serving(model_type: str) -> tuple[str, ...]:
    """Return the tasks that have a class for a model type, those with a head first."""
    found = [task for task in TASKS.values() if _serves(task, model_type)]
    return tuple(task.name for task in sorted(found, key=_is_bare))


def _serves(task: Task, model_type: str) -> bool:
    """Say whether a task has a class for a model type, and its family one of those that it is proven for."""
    proven = not task.model_types or model_type in task.model_types
    return proven and bool(_classes(task, model_type)) and _takes(task, model_type)


def _classes(task: Task, model_type: str) -> tuple[str, ...]:
    """Return the classes that a task's auto classes have for a model type."""
    return tuple(name for auto in task.auto_classes for name in auto_mappings.loads(auto, model_type))


def _takes(task: Task, model_type: str) -> bool:
    """Say whether the inputs of a task's models are what the class says that it takes.

    A head's auto class says as much by itself; a bare model's loads everything, and those of sound stand among the
    encoder-decoders.
    """
    classes = _classes(task, model_type)
    if not classes or not (_is_bare(task) or task.family == "seq2seq"):
        return True
    taken = auto_mappings.modalities(classes[0], model_type=model_type)
    if not taken:
        return True
    if task.takes == ("image",):
        return "image" in taken and "text" not in taken
    return "text" in taken and not taken & {"audio", "video", "time"}


def _no_task(entry: Entry, said: Declared, architecture: str, model_type: str, *, subject: str) -> ExportUnsupported:
    """Make the error that says what the class is for, and which tasks fit."""
    purpose, tag = auto_mappings.purpose(architecture), said.pipeline_tag
    what = f"{architecture}{f' (which transformers has for {purpose})' if purpose else ''}"
    wanted = entry.task or (tag if tag in TASKS else None)
    names = fitting(architecture, model_type) if not _is_for_another(architecture, model_type) else ()
    if not names and not purpose:
        names = _serving(model_type)
    if wanted is not None:
        opening = f"task {wanted}{'' if entry.task else ', which the Hub says,'} does not fit {what}"
    elif tag is not None:
        opening = f"the Hub says {tag}, which is no task here, and {what} serves none by itself"
    else:
        opening = f"the Hub says no task, and {what} serves none by itself"
    if wanted is not None and (proven := TASKS[wanted].model_types):
        known = f"{', '.join(proven[:-1])} and {proven[-1]}"
        advice = f"only {known} are proven for it; remove the entry, and serve the model with PyTorch"
    elif names:
        advice = f"write task: with {_either(names)}, or remove the entry"
    else:
        advice = "remove the entry, and serve the model with PyTorch"
    return ExportUnsupported(f"{subject}: {opening}; {advice}")


def _tag(said: Declared) -> str:
    if said.pipeline_tag is None:
        return "the Hub says no task"
    return f"the Hub says {said.pipeline_tag}, which is no task here"


def _heads(model_type: str) -> tuple[str, ...]:
    """Return the classes of a model type for the tasks here, without its bare model."""
    return tuple(
        dict.fromkeys(name for task in TASKS.values() if not _is_bare(task) for name in _classes(task, model_type))
    )


def _such_as(names: Iterable[str]) -> str:
    shown = tuple(names)[:_NAMES_SHOWN]
    return f", such as {_either(shown)}" if shown else ""


def _either(names: tuple[str, ...]) -> str:
    shown = names[:_NAMES_SHOWN]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} or {shown[-1]}"


def _release() -> str:
    try:
        return f" {version('transformers')}"
    except PackageNotFoundError:
        return ""
