"""The lines that docs/consumers.md shows: a comment before each block names it, so what is shown is what runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "consumers.md"

_BLOCK = re.compile(
    r"<!-- run: (?P<consumers>[\w., -]+?) / (?P<name>[\w-]+)"
    r"(?: after (?P<after>[\w-]+))?(?: -> (?P<gives>[\w, ]+?))? -->\n"
    r"```(?P<language>\w+)\n(?P<code>.*?)```",
    flags=re.DOTALL,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Some lines of the page."""

    consumer: str
    name: str
    gives: tuple[str, ...]
    """The variables that hold the answers; a block without any is the beginning of others."""
    code: str
    """With the lines of the block that it comes after."""


def blocks() -> dict[tuple[str, str], Block]:
    """Every named block of the page, by consumer and name.

    ``<!-- run: CONSUMER, CONSUMER / NAME after NAME -> VARIABLE, VARIABLE -->`` stands right above it.
    """
    found: dict[tuple[str, str], Block] = {}
    for match in _BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
        for consumer in match["consumers"].split(", "):
            key = (consumer, match["name"])
            assert key not in found, f"docs/consumers.md has two blocks {key}"
            first = found[consumer, match["after"]].code if match["after"] else ""
            gives = tuple(re.findall(r"\w+", match["gives"] or ""))
            found[key] = Block(consumer=consumer, name=match["name"], gives=gives, code=first + match["code"])
    return found


def code_fences() -> int:
    """How many blocks of Python and JavaScript the page has, named or not."""
    return len(re.findall(r"^```(?:python|js)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE))


def named_fences() -> int:
    """How many of them have a name."""
    return len(_BLOCK.findall(PAGE.read_text(encoding="utf-8")))
