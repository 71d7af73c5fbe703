"""Why a repeated proof suffices: each way to break a bundle changes its key, or the repeated checks see it.

A changed key means that nothing is repeated: the bundle is compared whole, and test_mutations.py shows what that sees.
One way in five is tried each time; `-m slow` tries the others, for a change of what a proof's key holds or of what is
repeated.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fixtures.exported import Exported
from mutations import MUTATIONS, Mutation
from onnx_fleet import jsonio
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.validation_report import FullProof
from onnx_fleet.export import cache_keys
from onnx_fleet.source import checkpoint
from onnx_fleet.validation import proof_key, validator

pytestmark = pytest.mark.timeout(900)  # the first row of a model exports it

ONE_IN = 5
ELSEWHERE = FullProof(
    model_id="acme/other", version="0" * 8 + "-" + "0" * 8, proven_at=datetime.now(UTC), comparisons=9
)


def key_of(exported: Exported) -> str | None:
    """The key as the real steps come to it, of a stage that was broken while it was exported."""
    stage = exported.stage
    graphs = cache_keys.of_graphs(
        stage.item, source_dir=exported.source_dir, tensors=checkpoint.read(exported.source_dir)
    )
    record = stage.private / "export.json"
    record.write_bytes(jsonio.canonical(jsonio.to_json(replace(stage.read_export(), graph_key=graphs))))
    for path in stage.folder.rglob("*"):
        os.utime(path, ns=(1, 1))
    return proof_key.of_stage(Stage.open(stage.folder), source_dir=exported.source_dir)


@pytest.fixture(scope="module")
def keys_before() -> dict[str, str | None]:
    """The keys of the sound bundles, by model, as far as they were asked for."""
    return {}


@pytest.mark.parametrize(
    "mutation",
    [
        pytest.param(row, id=f"{row.model}-{row.name}", marks=[pytest.mark.slow] if number % ONE_IN else [])
        for number, row in enumerate(MUTATIONS)
    ],
)
def test_it_changes_the_key_or_is_seen_by_what_is_repeated(
    mutation: Mutation, keys_before: dict[str, str | None], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    sound: Exported = request.getfixturevalue(mutation.model)
    if mutation.model not in keys_before:
        keys_before[mutation.model] = key_of(sound.copy(tmp_path / "sound"))
    before = keys_before[mutation.model]
    broken = sound.copy(tmp_path / "broken")
    if mutation.source:
        broken = broken.with_own_source(tmp_path)
        mutation.source(broken.source_dir)
    mutation.apply(broken.stage_dir)

    if before is not None and key_of(broken) == before:
        report = validator.validate(broken.stage, source_dir=broken.source_dir, load=mutation.load, rests_on=ELSEWHERE)
        assert not report.passed


BADLY_CONDITIONED = "rough"
"""PyTorch rounds so much in it that only float64 excuses its graphs: it is compared whole, as test_repeat_proof.py says
of everything that the repeated checks refuse."""


@pytest.mark.parametrize(
    "model", {mutation.model: None for mutation in MUTATIONS if mutation.model != BADLY_CONDITIONED}
)
def test_what_is_sound_passes_the_repeated_checks(model: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    exported: Exported = request.getfixturevalue(model).copy(tmp_path)

    report = validator.validate(exported.stage, source_dir=exported.source_dir, rests_on=ELSEWHERE)

    assert report.passed, report.reason
    assert report.rests_on == ELSEWHERE
    assert Counter(row.check for row in report.rows)["weights"] >= 1
