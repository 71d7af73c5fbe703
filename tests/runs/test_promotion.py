"""A promotion that a person decides on: the figures that are shown, and what became of it when it is carried out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fixtures.moved import REASON
from fixtures.planned_models import COMMIT, NEXT_COMMIT, NOW, VERSIONS, publish, resolved
from onnx_fleet import jsonio
from onnx_fleet.bundles import channels, manifest
from onnx_fleet.bundles.manifest import ProviderLatency
from onnx_fleet.entities.channel_move import Actor, MoveReason
from onnx_fleet.entities.latency_report import LatencyRow
from onnx_fleet.entities.regression_report import Finding
from onnx_fleet.planning import plan
from onnx_fleet.runs import promotion, promotion_report, run_note
from onnx_fleet.runs.promotion import Promotion
from onnx_fleet.store import ObjectStore, layout

APPROVED = MoveReason(kind="promoted", by=Actor(kind="person", name="ada"), why="a week without complaints")
TINY = "acme/tiny"


@pytest.fixture
def versions(local_store: ObjectStore) -> tuple[str, str]:
    """``stable`` points to the first, ``latest`` to the second, which is slower and larger."""
    old = _published(local_store, TINY, commit=COMMIT, latency_ms=5.0, tokens=16, size_bytes=1_000_000)
    channels.move(local_store, TINY, "stable", old, reason=REASON, now=NOW)
    new = _published(local_store, TINY, commit=NEXT_COMMIT, latency_ms=7.5, tokens=16, size_bytes=2_000_000)
    return old, new


def _published(store: ObjectStore, name: str, *, commit: str, latency_ms: float, tokens: int, size_bytes: int) -> str:
    """Publish a version with these figures, of which its gates have found one worse; returns its name."""
    (item,) = plan.plan([resolved(name, commit=commit)], store=store, versions=VERSIONS).items
    publish(store, item)
    key = layout.manifest_key(name, item.version)
    data, etag = store.read_tagged(key)
    document = manifest.read(data, where=key)
    row = LatencyRow(
        graph="onnx/model.onnx", variant="fp32", batch_size=1, sequence_length=tokens, timed_runs=3,
        latency_ms_p50=latency_ms, latency_ms_p90=9.0, latency_ms_p95=9.0, latency_ms_p99=9.0, throughput_per_s=1.0,
        torch_latency_ms_p50=9.0, ratio_to_torch=1.0,
    )  # fmt: skip
    cpu = ProviderLatency(
        provider="cpu", status="measured", reason="", threads=1, load_time_s=None, peak_memory_bytes=None,
        hardware={}, runtime={}, rows=(row,),
    )  # fmt: skip
    assert document.regression
    worse = Finding(gate="latency", message="1.50 times slower | 1.20 is allowed", holds=False)
    told = replace(
        document,
        latency=(cpu,),
        regression=replace(document.regression, verdict="warned", findings=(worse,)),
        files=(replace(document.files[0], size_bytes=size_bytes),),
    )
    store.replace(key, manifest.write(told), etag=etag)
    return item.version


def _asked(store: ObjectStore, *models: str) -> Promotion:
    candidates = promotion.propose(store, models, source="latest", to="stable")
    made = Promotion(run_id="r", source="latest", to="stable", candidates=candidates, created_at="2026-11-21T00:00:00Z")
    return jsonio.parse(Promotion, jsonio.canonical(jsonio.to_json(made)))


def test_the_question_has_both_versions_with_their_figures_and_what_the_gates_found(
    local_store: ObjectStore, versions: tuple[str, str]
) -> None:
    old, new = versions
    channels.move(local_store, TINY, "stable", old, reason=REASON, now=NOW, held=True)
    question = promotion_report.question(_asked(local_store, TINY, "acme/nowhere"))
    assert f"| {TINY} | {old} | {new} | warned | 5.00 → 7.50 | 1.0 MB → 2.0 MB |" in question
    assert f"- {TINY}: latency: 1.50 times slower \\| 1.20 is allowed, compared with before" in question
    assert f"**Held by a person now**, which the promotion ends: {TINY}." in question
    assert "1 model stays where it is; the report says why." in question


def test_latencies_at_other_sizes_are_not_shown_as_if_they_could_be_compared(
    local_store: ObjectStore, versions: tuple[str, str]
) -> None:
    _published(local_store, TINY, commit="0" * 40, latency_ms=7.5, tokens=128, size_bytes=1)
    told = promotion_report.question(_asked(local_store, TINY))
    assert "5.00 → 7.50 (at batch 1 × 16 tokens and at batch 1 × 128 tokens)" in told


def test_a_question_about_many_models_ends_and_the_report_goes_on(
    local_store: ObjectStore, versions: tuple[str, str]
) -> None:
    asked = _asked(local_store, TINY)
    (one,) = asked.candidates
    many = (replace(one, proposal=replace(one.proposal, model_id=f"acme/m{number:03d}")) for number in range(150))
    asked = replace(asked, candidates=tuple(many))
    question = promotion_report.question(asked)
    assert question.count("| acme/m") == promotion_report.ROWS
    assert "and 50 more; the button *Report* of the task `describe` leads to all of them." in question
    assert promotion_report.markdown(asked).count("| acme/m149 |") == 2


@pytest.mark.parametrize("meanwhile", ["moved", "moved and back", "held", "removed"])
def test_a_channel_that_another_writer_changed_after_the_question_stays(
    local_store: ObjectStore, versions: tuple[str, str], meanwhile: str
) -> None:
    old, _new = versions
    asked = _asked(local_store, TINY)
    other = _published(local_store, TINY, commit="0" * 40, latency_ms=1.0, tokens=16, size_bytes=1)
    if meanwhile == "removed":
        local_store.delete(layout.channel_key(TINY, "stable"))
    else:
        for version in {"moved": (other,), "moved and back": (other, old), "held": (old,)}[meanwhile]:
            channels.move(local_store, TINY, "stable", version, reason=REASON, now=NOW, held=meanwhile == "held")
    before = channels.find(local_store, TINY, "stable")

    made = promotion.carried_out(asked, store=local_store, reason=APPROVED, now=NOW)
    assert [each.outcome for each in made.candidates] == ["not moved"]
    assert channels.find(local_store, TINY, "stable") == before
    said = run_note.of_promotion(made, page="page")
    assert said.startswith(f"[{TINY}](page#acme--tiny): not moved: it was ")
    assert said.endswith("after the question was asked")


def test_an_approval_ends_a_hold_and_is_made_once_however_often_it_is_carried_out(
    local_store: ObjectStore, versions: tuple[str, str]
) -> None:
    old, new = versions
    channels.move(local_store, TINY, "stable", old, reason=REASON, now=NOW, held=True)
    asked = _asked(local_store, TINY)
    for _attempt in range(2):
        made = promotion.carried_out(asked, store=local_store, reason=APPROVED, now=NOW)
        assert [each.outcome for each in made.candidates] == ["moved"]
    pointer = channels.read(local_store, TINY, "stable")
    assert (pointer.version, pointer.held) == (new, False)
    rows = channels.history(local_store, TINY, "stable").rows
    assert [row.kind for row in rows] == ["set", "set", "promoted"]
    assert (rows[-1].by, rows[-1].why) == (APPROVED.by, APPROVED.why)
