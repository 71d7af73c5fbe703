"""The question to a person in Airflow's page: approve or reject, with a reason. It takes no worker while it waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from airflow.providers.standard.operators.hitl import ApprovalOperator, HITLOperator
from airflow.sdk import Param

from onnx_fleet.airflow import run_params

WITHIN: Final = timedelta(days=14)
"""How long a question waits for an answer; without one nothing is approved."""
APPROVE: Final = "Approve"
DECLINE: Final = "Decline"
LEAVE_OPEN: Final = "Leave open"
"""The answers to a question of choose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Who answered, and why."""

    by: str
    reason: str


def choose(*, subject: str, why: str) -> HITLOperator:
    """Return the task ``ask`` for several things at once: which of them are approved or declined, or that none is yet.

    Args:
        subject: the question, with Airflow's templates.
        why: the help below the field of the reason.
    """
    return HITLOperator(
        task_id="ask",
        subject=subject,
        body="{{ ti.xcom_pull(task_ids='describe') }}",
        options=[APPROVE, DECLINE, LEAVE_OPEN],
        params={
            "reason": Param("", type="string", title="Reason", description=why),
            "only": Param(
                [],
                type=["null", "array"],
                items={"type": "string"},
                title="Only these",
                description="The answer is for those that match a pattern, one on each line. Empty takes all.",
            ),
        },
        defaults=LEAVE_OPEN,
        response_timeout=WITHIN,
    )


def chosen(told: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return what was chosen and the patterns of what it is for, none of them for all, from a task that choose made."""
    (option,) = told["chosen_options"]
    return option, run_params.patterns((told.get("params_input") or {}).get("only"))


def ask(*, subject: str, why: str) -> ApprovalOperator:
    """Return the task ``ask``, whose text is what the task ``describe`` returns.

    Args:
        subject: the question, with Airflow's templates.
        why: the help below the field of the reason.
    """
    return ApprovalOperator(
        task_id="ask",
        subject=subject,
        body="{{ ti.xcom_pull(task_ids='describe') }}",
        params={"reason": Param("", type="string", title="Reason", description=why)},
        defaults=ApprovalOperator.REJECT,
        response_timeout=WITHIN,
    )


def answer(told: Mapping[str, Any], *, unsaid: str = "approved in Airflow") -> Answer:
    """Return who answered and why, from the result of the task ``ask``.

    Args:
        unsaid: the reason where the person gave none.
    """
    return Answer(
        by=str((told.get("responded_by_user") or {}).get("name") or "a person in Airflow"),
        reason=" ".join(str((told.get("params_input") or {}).get("reason") or "").split()) or unsaid,
    )
