"""YAML text -> plain values that still know their lines; every fault of the YAML itself, listed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

Plain = str | int | float | bool | None | list["Plain"] | dict[str, "Plain"]

Location = Sequence[str | int]
"""Keys and indexes from the document's top, as pydantic names the place of an error."""

MAX_VALUES = 1_000_000
"""The most values of a document, far above any fleet's: a few lines of nested aliases can stand for more than fit in
memory."""

_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_COLLECTIONS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_MERGE = "tag:yaml.org,2002:merge"


class SourceText:
    """What a document's node tree remembers of its text, for messages."""

    def __init__(self, root: Node | None) -> None:
        self._root = root

    def line(self, location: Location) -> int:
        """Return the line, counted from 1, of the deepest part of a location that is in the text."""
        return max((line for line, _ in self._walk(location)), default=1)

    def scalar(self, location: Location) -> str | None:
        """Return the text of a scalar as it was written, such as ``1.0``; None for anything else."""
        nodes = [node for _, node in self._walk(location)]
        return str(nodes[-1].value) if nodes and isinstance(nodes[-1], ScalarNode) else None

    def _walk(self, location: Location) -> Iterator[tuple[int, Node]]:
        """Yield lines and nodes along a location; parts that are not in the text are stepped over."""
        node = self._root
        for part in location:
            if isinstance(node, MappingNode):
                for key, value in node.value:
                    if key.value == part:
                        node = value
                        yield key.start_mark.line + 1, node
                        break
            elif isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                yield node.start_mark.line + 1, node


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One YAML document."""

    value: Plain
    text: SourceText
    faults: tuple[tuple[int, str], ...]
    """The lines and messages of what YAML lets pass and a catalogue does not: a key given twice, a merge key, a tag."""


class SyntaxFault(Exception):
    """The text is not YAML, so that nothing else can be said of it.

    Attributes:
        line: counted from 1.
    """

    def __init__(self, message: str, *, line: int) -> None:
        super().__init__(message)
        self.line = line


def read(text: str) -> Document:
    """Parse one YAML 1.2 document.

    Raises:
        SyntaxFault: the text is not one YAML document.
    """
    yaml = YAML(typ="safe", pure=True)
    try:
        root = yaml.compose(text)
    except MarkedYAMLError as err:
        line = err.problem_mark.line + 1 if err.problem_mark is not None else 1
        raise SyntaxFault(_reason(err), line=line) from err
    except ReaderError as err:
        line = text.count("\n", 0, err.position) + 1
        raise SyntaxFault(f"the character {text[err.position]!a} is not allowed in YAML; remove it", line=line) from err
    builder = _Builder(yaml)
    value = builder.build(root) if root is not None else None
    return Document(value=value, text=SourceText(root), faults=tuple(sorted(builder.faults)))


def _reason(err: MarkedYAMLError) -> str:
    if err.problem == "but found another document":
        return "a second YAML document starts here; write one document in a file, without '---' in the middle"
    if "that cannot start any token" in (err.problem or "") and "\\t" in (err.problem or ""):
        return "the YAML cannot be read: a tab; indent with spaces"
    context = f" ({err.context})" if err.context else ""
    return f"the YAML cannot be read: {err.problem}{context}; correct the text at or just before this line"


class _Builder:
    """Makes plain values of nodes. A node that an alias names again is built once, and counted again."""

    def __init__(self, yaml: YAML) -> None:
        self._scalars = yaml.constructor
        self._built: dict[int, tuple[Plain, int]] = {}
        self._open: set[int] = set()
        self._count = 0
        self.faults: list[tuple[int, str]] = []

    def build(self, node: Node) -> Plain:
        if id(node) in self._open:
            return self._refuse(node, f"the anchor '{node.anchor}' contains itself; write the values out")
        if id(node) in self._built:
            value, count = self._built[id(node)]
        else:
            before = self._count
            self._open.add(id(node))
            value = self._new(node)
            self._open.remove(id(node))
            count = self._count - before + 1
            self._count = before
            self._built[id(node)] = value, count
        if self._count + count > MAX_VALUES:
            return self._refuse(
                node, f"aliases expand to more than {MAX_VALUES:,} values; write fewer, or several files"
            )
        self._count += count
        return value

    def _new(self, node: Node) -> Plain:
        if isinstance(node, ScalarNode):
            return self._scalar(node)
        if str(node.tag) not in _COLLECTIONS:
            return self._refuse(node, f"the tag '{node.tag}' is not supported; write the plain value without a tag")
        if isinstance(node, MappingNode):
            return self._mapping(node)
        return [self.build(item) for item in node.value]

    def _mapping(self, node: MappingNode) -> dict[str, Plain]:
        mapping: dict[str, Plain] = {}
        lines: dict[str, int] = {}
        for key, value in node.value:
            if str(key.tag) == _MERGE or key.value == "<<":
                self._refuse(
                    key, "merge keys ('<<') are not supported; write the keys out, or put them under 'defaults'"
                )
            elif not isinstance(key, ScalarNode):
                self._refuse(key, "a key must be a word; write key: value")
            elif key.value in mapping:
                self._refuse(key, f"'{key.value}' is given twice, first on line {lines[key.value]}; remove one of them")
            else:
                lines[key.value] = key.start_mark.line + 1
                mapping[key.value] = self.build(value)
        return mapping

    def _scalar(self, node: Node) -> Plain:
        if str(node.tag) == _TIMESTAMP:  # a branch may be called 2026-01-01; nothing in a catalogue is a date
            return str(node.value)
        try:
            value: Plain = self._scalars.construct_object(node)
        except (ConstructorError, ValueError):
            return self._refuse(node, f"the tag '{node.tag}' is not supported; write the plain value without a tag")
        return value

    def _refuse(self, node: Node, message: str) -> Plain:
        """Keep a fault; None stands where the value would."""
        self.faults.append((node.start_mark.line + 1, message))
        return None
