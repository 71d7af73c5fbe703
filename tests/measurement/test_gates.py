"""What the gates make of differences: which of them hold a channel."""

from __future__ import annotations

from dataclasses import replace

import pytest

from onnx_fleet.entities.entry import Entry, Gates
from onnx_fleet.entities.regression_report import Differences, SizeRow, SlowdownRow
from onnx_fleet.entities.validation_report import CheckRow
from onnx_fleet.measurement import gates, latency_ratio
from onnx_fleet.measurement.output_drift import NEW_RUNS, OLD_RUNS

BLOCK = Gates(policy="block")

SLOW = SlowdownRow(
    graph="onnx/model.onnx", variant="fp32", phase="forward", batch_size=1, sequence_length=8, rounds=5, runs=50,
    old_latency_ms_p50=1.0, new_latency_ms_p50=2.0, ratio=2.0, ratio_low=1.5, ratio_high=2.7,
)  # fmt: skip


def found(measured: Differences, *, policy: Gates = BLOCK, alike: bool = True) -> list[tuple[str, bool]]:
    findings = gates.of_differences(measured, gates=policy, full=["onnx/model.onnx"], alike=alike)
    return [(finding.gate, finding.holds) for finding in findings]


@pytest.mark.parametrize(("low", "high", "slower"), [(1.5, 2.7, True), (1.2, 3.3, False), (0.4, 9.0, False)])
def test_a_slowdown_counts_when_its_whole_interval_is_past_the_threshold(low: float, high: float, slower: bool) -> None:
    measured = Differences(latency=(replace(SLOW, ratio_low=low, ratio_high=high),))
    assert found(measured) == ([("latency", True)] if slower else [])


def test_rounds_that_do_not_agree_give_a_wide_interval() -> None:
    steady = latency_ratio.interval([1.5, 1.52, 1.49, 1.5, 1.51])
    disturbed = latency_ratio.interval([1.0, 1.0, 1.0, 1.0, 5.0])
    assert steady[1] > 1.45
    assert disturbed[0] > 1.25, "the mean alone would have held it"
    assert disturbed[1] < 1.0 < disturbed[2]


def test_a_shrunk_bundle_and_one_within_its_growth_pass() -> None:
    sizes = tuple(SizeRow(variant="fp32", old_bytes=100, new_bytes=size) for size in (50, 110))
    assert found(Differences(sizes=sizes)) == []
    assert found(Differences(sizes=(SizeRow(variant="fp32", old_bytes=100, new_bytes=111),))) == [("size", True)]


def row(**changes: object) -> CheckRow:
    plain = CheckRow(
        check="drift", graph="onnx/model.onnx", case="batch_size 2", output="logits", passed=False, finding="different",
        max_abs_diff=0.5, max_rel_diff=0.5, atol=1e-4, rtol=1e-3,
    )  # fmt: skip
    return replace(plain, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("each", "alike", "expected"),
    [
        (row(), True, [("outputs", True)]),
        (row(), False, []),
        (row(graph="onnx/model_q4.onnx"), True, []),
        (row(finding="nan"), False, [("outputs", True)]),
        (row(check=NEW_RUNS, finding="error", output=""), False, [("outputs", True)]),
        (row(check=OLD_RUNS, finding="error", output=""), True, [("comparison", False)]),
    ],
)
def test_a_difference_is_judged_by_what_the_two_versions_are_made_of(
    each: CheckRow, alike: bool, expected: list[tuple[str, bool]]
) -> None:
    assert found(Differences(outputs=(each,)), alike=alike) == expected


def test_the_defaults_warn_of_figures_and_hold_what_breaks_consumers() -> None:
    assert (Entry(repo_id="a/b").gates.policy, Entry(repo_id="a/b").gates.breaking) == ("warn", "block")
