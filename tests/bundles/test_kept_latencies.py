"""Figures that the store keeps for models with the same graphs: what is torn, or of something else, is not used."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest

from fixtures.stages import NOW, latency_report, work_item
from onnx_fleet import jsonio
from onnx_fleet.bundles.kept_documents import LATENCIES
from onnx_fleet.entities.kept_latency import KeptLatency
from onnx_fleet.store import ObjectStore, layout

KEY, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def figures() -> KeptLatency:
    report = latency_report(work_item(), latency_ms=2.0)
    return KeptLatency(
        key=KEY,
        model_id=report.model_id,
        version=report.version,
        variant="fp32",
        provider="cpu",
        measured_at=NOW,
        rows=report.rows,
        generation=(),
        skipped=(),
        footprint=None,
        noise=None,
        hardware=report.hardware,
    )


def test_what_was_kept_is_found_and_newer_figures_take_its_place(any_store: ObjectStore, figures: KeptLatency) -> None:
    LATENCIES.keep(figures, store=any_store)
    assert LATENCIES.find([KEY, OTHER], store=any_store) == (figures,)

    newer = replace(figures, version="0123abcd-00000000")
    LATENCIES.keep(newer, store=any_store)
    assert LATENCIES.find([KEY], store=any_store) == (newer,)


@pytest.mark.parametrize("damage", ["torn", "no JSON", "another document", "of another key", "a field more"])
def test_a_document_that_is_torn_or_foreign_is_left_alone_and_logged(
    local_store: ObjectStore, figures: KeptLatency, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = jsonio.to_json(figures)
    data = {
        "torn": jsonio.canonical(whole)[:-40],
        "no JSON": b"\x00\xff",
        "another document": jsonio.canonical({"schema_version": 1, "model_id": "acme/tiny"}),
        "of another key": jsonio.canonical({**whole, "key": OTHER}),
        "a field more": jsonio.canonical({**whole, "hint": "trust me"}),
    }[damage]
    local_store.create(layout.latency_key(KEY), data)

    assert LATENCIES.find([KEY], store=local_store) == ()
    assert layout.latency_key(KEY) in caplog.text
    LATENCIES.keep(figures, store=local_store)
    assert LATENCIES.find([KEY], store=local_store) == (figures,)


def test_of_workers_that_keep_the_same_figures_at_once_one_stands_whole(
    local_store: ObjectStore, figures: KeptLatency
) -> None:
    offered = [replace(figures, model_id=f"acme/m{number}") for number in range(4)]
    together = Barrier(len(offered))

    def keep(own: KeptLatency) -> None:
        together.wait(timeout=30)
        LATENCIES.keep(own, store=local_store)

    with ThreadPoolExecutor(len(offered)) as pool:
        list(pool.map(keep, offered))

    (found,) = LATENCIES.find([KEY], store=local_store)
    assert found in offered
