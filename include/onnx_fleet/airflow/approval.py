"""The question to a person in Airflow's page: approve or reject, with a reason. It takes no worker while it waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Param

WITHIN: Final = timedelta(days=14)
"""How long a question waits for an answer; without one it counts as rejected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Who approved, and why."""

    by: str
    reason: str


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


def answer(told: Mapping[str, Any]) -> Answer:
    """Return who approved and why, from the result of the task ``ask``."""
    return Answer(
        by=str((told.get("responded_by_user") or {}).get("name") or "a person in Airflow"),
        reason=" ".join(str((told.get("params_input") or {}).get("reason") or "").split()) or "approved in Airflow",
    )
