"""docs/validation.md: its tables of checks and of mutations, as the code has them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mutations import MUTATIONS, VARIANT_MUTATIONS
from onnx_fleet.validation.checks import CHECKS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "validation.md"

_BLOCK = re.compile(r"(<!-- begin: (\w+) -->\n).*?(<!-- end: \2 -->)", flags=re.DOTALL)


def render(page: str) -> str:
    """The page with its tables written anew."""
    tables = {"checks": _checks(), "mutations": _mutations(), "variants": _variants()}
    return _BLOCK.sub(lambda block: f"{block[1]}{tables[block[2]]}{block[3]}", page)


def _checks() -> str:
    """One row for what a check proves; families that share its words share its row."""
    families: dict[tuple[str, str], list[str]] = {}
    for family, checks in CHECKS.items():
        for check in checks:
            families.setdefault((check.name, check.proves), []).append(family)
    rows = [
        (f"`{name}`", "all" if len(found) == len(CHECKS) else ", ".join(found), proves)
        for (name, proves), found in families.items()
    ]
    return _table(("check", "families", "what it proves"), rows)


def _mutations() -> str:
    rows = [
        (
            f"`{each.name}`",
            each.says,
            each.family,
            f"`{each.check}`",
            each.finding.replace("_", " "),
        )
        for each in MUTATIONS
    ]
    return _table(("mutation", "what is wrong then", "family", "caught by", "finding"), rows)


def _variants() -> str:
    """One row for what a fault is; variants that it was tried on share its row."""
    variants: dict[tuple[str, str, str], list[str]] = {}
    for each in VARIANT_MUTATIONS:
        variants.setdefault((each.name, each.says, each.caught), []).append(each.variant)
    rows = [(f"`{name}`", says, ", ".join(found), f"`{caught}`") for (name, says, caught), found in variants.items()]
    return _table(("mutation", "what is wrong then", "variants", "caught by"), rows)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
