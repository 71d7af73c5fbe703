"""The proof of the prover: every way to break a bundle is caught by the check that its row of the table names."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from fixtures.exported import Exported
from mutations import MUTATIONS, Mutation, page
from onnx_fleet.entities import validation_report
from onnx_fleet.entities.validation_report import ValidationReport
from onnx_fleet.errors import ValidationFailed
from onnx_fleet.source import reference
from onnx_fleet.source.reference import Load
from onnx_fleet.validation import validator
from onnx_fleet.validation.checks import CHECKS

pytestmark = pytest.mark.timeout(900)  # the first row of a model exports it

WHOLE = tuple(dict.fromkeys(mutation.model for mutation in MUTATIONS))


def validate(exported: Exported, *, load: Load = reference.load) -> ValidationReport:
    return validator.validate(exported.stage, source_dir=exported.source_dir, load=load)


@pytest.mark.parametrize("model", WHOLE)
def test_what_is_broken_here_was_sound_before(model: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    report = validate(request.getfixturevalue(model).copy(tmp_path))

    assert report.passed, report.reason


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda row: f"{row.model}-{row.name}")
def test_it_is_caught_by_the_named_check(mutation: Mutation, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    broken: Exported = request.getfixturevalue(mutation.model).copy(tmp_path)
    if mutation.source:
        broken = broken.with_own_source(tmp_path)
        mutation.source(broken.source_dir)
    mutation.apply(broken.stage_dir)

    report = validate(broken, load=mutation.load)

    caught = {(row.check, row.finding) for row in report.rows if not row.passed}
    assert (mutation.check, mutation.finding) in caught, caught
    with pytest.raises(ValidationFailed, match=mutation.check):
        validation_report.require_passed(report)


def test_every_family_is_broken_in_several_ways() -> None:
    count = Counter(mutation.family for mutation in MUTATIONS)

    assert count.keys() == CHECKS.keys()
    assert min(count.values()) >= 6
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)


def test_the_page_has_the_tables_of_the_code() -> None:
    written = page.PAGE.read_text(encoding="utf-8")

    assert page.render(written) == written, "run `python -m mutations` in tests/"
