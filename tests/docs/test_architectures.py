"""A sample of every family's rows, on the product's own path, ends as docs/architectures.md says."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnx_fleet.source.families import FAMILIES
from zoo import Architecture
from zoo.page import require_as_documented, sample

ROWS = [row for family in FAMILIES for row in sample(family)]


@pytest.mark.parametrize("architecture", ROWS, ids=lambda row: row.name)
def test_it_ends_as_the_page_says(architecture: Architecture, tmp_path: Path) -> None:
    require_as_documented(architecture, tmp_path)


def test_every_family_is_sampled() -> None:
    assert {row.family for row in ROWS} == set(FAMILIES)
