"""What transformers has, read from its source: which class loads a model for what, and what that class takes.

transformers itself is not imported: that brings torch, and takes a second and a half of a plan that needs neither.
Where it is not installed every answer is empty.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from onnx_fleet.conventions import python_source

Classes = tuple[str, ...]

BARE = frozenset(
    {"AutoModel", "AutoModelForPreTraining", "AutoModelForTextEncoding", "AutoModelForRetrieval", "AutoBackbone"}
)
"""Auto classes that say nothing of what a class is for."""

_CLASS = re.compile(r"^class (\w+)(?:\(([^)]*)\))?:$", re.MULTILINE)
_FORWARD = re.compile(r"^    def forward(\(.*?\)) *(?:->.*?)?:\n", re.MULTILINE | re.DOTALL)
_OF_INPUT = {
    "input_ids": "text",
    "pixel_values": "image",
    "pixel_values_videos": "video",
    "input_values": "audio",
    "input_features": "audio",
    "past_values": "time",
}
"""The inputs that say what a model is given; any other comes beside them."""
_CONFIG = re.compile(r"^    config(?:_class)?\b *[:=] *(\w+)", re.MULTILINE)


def loads(auto_class: str, model_type: str) -> Classes:
    """Return the classes that an auto class has for a model type, the usual one first; empty where it has none."""
    return _auto_classes().get(auto_class, {}).get(model_type, ())


def loaded_by(architecture: str) -> Classes:
    """Return the auto classes that load a class, for whichever model type."""
    return tuple(
        name for name, table in _auto_classes().items() if any(architecture in classes for classes in table.values())
    )


def classes() -> Classes:
    """Return every class that some auto class loads."""
    found = {name for table in _auto_classes().values() for names in table.values() for name in names}
    return tuple(sorted(found))


def is_vision_tower(architecture: str) -> bool:
    """Tell whether a class is one that transformers takes features of images from."""
    return any(architecture in classes for classes in _tables().get("MODEL_FOR_IMAGE_MAPPING_NAMES", {}).values())


def purpose(architecture: str) -> str:
    """Say what a class is for, in transformers' own words: ``mask generation``; empty where they say nothing."""
    heads = [name for name in loaded_by(architecture) if name not in BARE]
    words = [re.sub(r"(?<=[a-z])(?=[A-Z0-9])", " ", name.removeprefix("AutoModelFor")) for name in heads]
    return " and ".join(" ".join(w if w.isupper() else w.lower() for w in each.split()) for each in words[:2])


def model_types(architecture: str) -> Classes:
    """Return the model types that a class serves, those that only an alias names last; none for an unknown class."""
    found = {
        model_type
        for table in _auto_classes().values()
        for model_type, classes in table.items()
        if architecture in classes
    }
    if not found:
        configs = {config for text in _sources(architecture) if (config := _own(text, architecture, _CONFIG))}
        found = {model_type for model_type, config in _configs().items() if config in configs}
    return tuple(sorted(found, key=lambda each: (_own_type(each) != each, each)))


def knows_type(model_type: str) -> bool:
    """Tell whether transformers has a configuration of that type."""
    return model_type in _configs()


def has_class(architecture: str) -> bool:
    """Tell whether transformers defines such a class of models anywhere."""
    return bool(loaded_by(architecture)) or any(True for _ in _sources(architecture))


def defines(architecture: str, *, model_type: str) -> bool:
    """Tell whether transformers defines a class among those of one model type."""
    return any(_has(text, architecture) for text in _modeling(_module(model_type)))


def modalities(architecture: str, *, model_type: str) -> frozenset[str]:
    """Tell what a class takes, by the inputs of its forward: of ``text``, ``image``, ``audio``, ``video``, ``time``.

    Classes have an attribute that says so too, but a part of a model often has the whole's.
    """
    for text in _modeling(_module(model_type)):
        if _has(text, architecture):
            header = _own(text, architecture, _FORWARD)
            return frozenset(_OF_INPUT[name] for name in _parameters(header) if name in _OF_INPUT)
    return frozenset()


def mentions(model_type: str, word: str) -> bool:
    """Tell whether the source of a model type's configuration has a word in it."""
    folder = source_folder()
    if folder is None:
        return False
    module = _module(model_type)
    paths = (folder / "models" / module).glob("configuration_*.py")
    return any(word in path.read_text(encoding="utf-8") for path in paths)


def installed() -> bool:
    """Tell whether there is a transformers to ask."""
    return bool(_auto_classes())


@cache
def source_folder() -> Path | None:
    """Return where transformers' source lies; None where it is not installed."""
    package = importlib.util.find_spec("transformers")
    return None if package is None or package.origin is None else Path(package.origin).parent


@cache
def _auto_classes() -> Mapping[str, Mapping[str, Classes]]:
    """Return the classes by auto class, then by model type."""
    tables, lazy, found = _tables(), {}, {}
    for node in _body("modeling_auto.py"):
        match node:
            case ast.Assign(
                targets=[ast.Name(id=name)],
                value=ast.Call(func=ast.Name(id="_LazyAutoMapping"), args=[_, ast.Name(id=table)]),
            ):
                lazy[name] = tables[table]
            case ast.ClassDef(name=name):
                for each in node.body:
                    match each:
                        case ast.Assign(targets=[ast.Name(id="_model_mapping")], value=ast.Name(id=mapping)):
                            found[name.removeprefix("_")] = lazy[mapping]
    return found


@cache
def _tables() -> Mapping[str, Mapping[str, Classes]]:
    """Return the tables of modeling_auto.py by their names."""
    found: dict[str, dict[str, Classes]] = {}
    for name, items in _ordered("modeling_auto.py"):
        table: dict[str, Classes] = {}
        for item in items:
            if isinstance(item, ast.Starred):  # *list(OTHER.items())
                other = next(each.id for each in ast.walk(item) if isinstance(each, ast.Name) and each.id in found)
                table |= found[other]
            else:
                model_type, classes = ast.literal_eval(item)
                table[model_type] = (classes,) if isinstance(classes, str) else tuple(each for each in classes if each)
        found[name] = table
    return found


@cache
def _configs() -> Mapping[str, str]:
    """Return the class of configurations by model type."""
    return _names("CONFIG_MAPPING_NAMES")


def _module(model_type: str) -> str:
    """Return the folder of transformers/models that a model type is in."""
    return _names("SPECIAL_MODEL_TYPE_TO_MODULE_NAME").get(model_type, model_type).replace("-", "_")


def _own_type(model_type: str) -> str:
    """Return the model type that a configuration has by itself, where several share it: ``gpt2`` of ``gpt-sw3``."""
    config = _configs().get(model_type)
    return next((each for each, name in reversed(list(_configs().items())) if name == config), model_type)


@cache
def _names(table: str) -> Mapping[str, str]:
    """Return a table of auto_mappings.py, with what configuration_auto.py adds to it."""
    found: dict[str, str] = {}
    for name, items in _ordered("auto_mappings.py"):
        if name == table:
            found |= dict(map(ast.literal_eval, items))
    for node in _body("configuration_auto.py"):
        match node:
            case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="update"), args=[added])):
                if name == table:
                    found |= ast.literal_eval(added)
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(keywords=[*keywords])) if name == table:
                for keyword in keywords:  # OrderedDict(**{…}, **TABLE)
                    if isinstance(keyword.value, ast.Dict):
                        found = {**ast.literal_eval(keyword.value), **found}
    return found


def _ordered(file: str) -> Iterator[tuple[str, list[ast.expr]]]:
    """Return the assignments of ``NAME = OrderedDict([…])``."""
    for node in _body(file):
        match node:
            case ast.Assign(
                targets=[ast.Name(id=name)],
                value=ast.Call(func=ast.Name(id="OrderedDict"), args=[ast.List(elts=items)]),
            ):
                yield name, items


@cache
def _body(file: str) -> list[ast.stmt]:
    folder = source_folder()
    if folder is None:
        return []
    return python_source.module((folder / "models" / "auto" / file).read_text(encoding="utf-8")).body


def _modeling(module: str) -> Iterable[str]:
    """Return the source of one folder's models."""
    folder = source_folder()
    paths = () if folder is None else sorted((folder / "models" / module).glob("modeling_*.py"))
    return (path.read_text(encoding="utf-8") for path in paths)


def _sources(architecture: str) -> Iterator[str]:
    """Return the sources of models that define a class; all of transformers is searched."""
    folder = source_folder()
    for path in () if folder is None else sorted((folder / "models").glob("*/modeling_*.py")):
        text = path.read_text(encoding="utf-8")
        if _has(text, architecture):
            yield text


def _has(text: str, architecture: str) -> bool:
    return f"\nclass {architecture}(" in text


def _parameters(header: str) -> tuple[str, ...]:
    """Return the names in ``(self, input_ids: Tensor, …)``."""
    if not header:
        return ()
    (function,) = python_source.module(f"def forward{header}: ...").body
    assert isinstance(function, ast.FunctionDef)
    return tuple(each.arg for each in (*function.args.args, *function.args.kwonlyargs))


def _own(text: str, architecture: str, attribute: re.Pattern[str]) -> str:
    """Return what a class says in an attribute, else what the classes beside it say that it is made of."""
    headers = list(_CLASS.finditer(text))
    bodies = {
        header[1]: (text[header.end() : after.start() if after else None], re.findall(r"\w+", header[2] or ""))
        for header, after in zip(headers, [*headers[1:], None], strict=True)
    }
    name = architecture
    asked = [name]
    while asked:
        body, bases = bodies.get(asked.pop(0), ("", []))
        if found := attribute.search(body):
            return found[1]
        asked += bases
    return ""
