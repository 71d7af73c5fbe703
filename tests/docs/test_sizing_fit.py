"""The page about operations: what it says that the formula predicts is what the formula predicts, and how far off."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from onnx_fleet.entities.entry import LatencyGrid
from onnx_fleet.entities.sizing import SizingFacts, StepCost
from onnx_fleet.planning import cost_formula

PAGE = (Path(__file__).parents[2] / "docs/operations.md").read_text()
FIT = PAGE.partition("### How far off it is")[2].partition("\n## ")[0]
MB = 1_000_000


def rows(column: str) -> list[list[str]]:
    """The rows of the table of the fit that has a column."""
    lines = FIT.partition(f"| {column} |")[2].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")][1:]


def number(cell: str) -> float:
    return float(cell.replace(",", ""))


def predicted(row: list[str]) -> StepCost:
    """What the formula says of a row: model, family, variants, MB of weights, step; with no byte to download."""
    _, family, variants, weights, step, *_ = row
    facts = SizingFacts(
        family=family,
        float32_bytes=int(number(weights) * MB),
        download_bytes=0,
        variants=tuple(variants.split(", ")),
        latency=LatencyGrid(),
        replaces=step == "compare",
    )
    return cost_formula.predict(facts)[step]


@pytest.mark.parametrize("row", rows("MB taken"), ids=lambda row: f"{row[0]}, {row[4]}")
def test_the_memory_on_the_page_is_what_the_formula_says(row: list[str]) -> None:
    assert round(predicted(row).memory_bytes / MB) == number(row[6])


@pytest.mark.parametrize("row", rows("s taken"), ids=lambda row: f"{row[0]}, {row[4]}")
def test_the_seconds_on_the_page_are_what_the_formula_says(row: list[str]) -> None:
    assert predicted(row).seconds == number(row[6])


@pytest.mark.parametrize(("column", "what"), [("MB taken", "memory"), ("s taken", "time")])
def test_the_page_says_how_far_off_the_formula_was(column: str, what: str) -> None:
    ratios = [number(row[6]) / number(row[5]) for row in rows(column)]
    assert len(ratios) > 10
    found = re.search(rf"between ([\d.]+) and ([\d.]+) times the {what}", FIT)
    assert found
    assert found.groups() == (f"{min(ratios):.2f}", f"{max(ratios):.2f}")
