"""A promotion that a person decides on: the question with the figures, the answer, and the moves."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow.sdk import get_current_context, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from onnx_fleet import jsonio
from onnx_fleet.airflow import approval, retries, run_context, run_notes, run_params, store_links
from onnx_fleet.airflow.approval import Answer
from onnx_fleet.airflow.settings import FleetSettings
from onnx_fleet.bundles import listing
from onnx_fleet.entities.channel_move import Actor, MoveReason
from onnx_fleet.errors import BundleNotFound, CatalogueInvalid
from onnx_fleet.planning.catalogue import reader
from onnx_fleet.runs import promotion, promotion_report, run_note, run_report, selection
from onnx_fleet.runs.promotion import Promotion

log = logging.getLogger(__name__)


def promotions(*, settings: FleetSettings) -> None:
    """Wire the tasks into the DAG that is being defined; the run's parameters say what to promote.

    What is proposed waits in the run's report: the task that moves the channels reads it there.
    """

    def describe() -> str:
        with run_notes.of_failure():
            return _describe(run_context.current(settings))

    def promote() -> str:
        with run_notes.of_failure():
            told = get_current_context()["ti"].xcom_pull(task_ids="ask")
            made = _promote(run_context.current(settings), approval.answer(told))
        _require_all_moved(made)
        return run_report.key(made.run_id)

    retried = retries.options(settings)
    described = store_links.attach(task(**retried)(describe)(), (store_links.REPORT,))
    asked = approval.ask(
        subject="Promote {{ params['from'] }} of {{ params['model'] or 'the models below' }} to {{ params['to'] }}?",
        why="Why, for those who read the history of the channels later.",
    )
    described >> asked >> store_links.attach(task(**retried)(promote)(), (store_links.REPORT,))


def _describe(now: run_context.Run) -> str:
    """Write down what is proposed, and return the question, in Markdown; where nothing would move, nobody is asked."""
    run_params.require_known()
    params: Any = now.params
    source, to = params["from"].strip(), params["to"].strip()
    if source == to:
        raise CatalogueInvalid.of([f"the run's parameters: from and to are both {to!r}; name two channels"])
    store = now.services.store
    made = Promotion(
        run_id=now.label,
        source=source,
        to=to,
        candidates=promotion.propose(store, _models(now), source=source, to=to),
        created_at=_now(),
    )
    _tell(now, made)
    if not made.of("asked"):
        raise AirflowSkipException(f"there is nothing to promote: {promotion_report.title(made)}")
    return promotion_report.question(made)


def _models(now: run_context.Run) -> tuple[str, ...]:
    """Return the published models that the run is asked for: one, those that match, or those of a catalogue."""
    params: Any = now.params
    model, only = (params["model"] or "").strip(), run_params.patterns(params["only"])
    file = params["catalogue"]
    if model and (only or file):
        raise CatalogueInvalid.of(["the run's parameters: model is one model; leave out only and catalogue, or model"])
    if file:
        found = selection.published(reader.load(Path(file)), only=only, services=now.services)
    else:
        store, wanted = now.services.store, [model] if model else only
        found = listing.list_models(store, only=wanted)
        if wanted and not found:
            raise BundleNotFound(
                f"{', '.join(wanted)}: no version of it is published in {store.address}; see `onnx-fleet list`"
            )
    return tuple(each.model_id for each in found)


def _promote(now: run_context.Run, answer: Answer) -> Promotion:
    """Move the channels, and tell what became of each."""
    store = now.services.store
    asked = jsonio.parse(Promotion, store.read(run_report.key(now.label)))
    reason = MoveReason(kind="promoted", by=Actor(kind="person", name=answer.by), why=answer.reason)
    made = promotion.carried_out(asked, store=store, reason=reason, now=datetime.now(UTC))
    _tell(now, made)
    return made


def _require_all_moved(made: Promotion) -> None:
    """Fail the run where a channel was to move and could not: it is not as the person has approved."""
    if failed := made.of("not moved"):
        raise AirflowFailException(
            f"{promotion_report.title(made)}; {failed[0].model_id}: {failed[0].proposal.why_not}"
        )


def _tell(now: run_context.Run, made: Promotion) -> None:
    """Write the report and the note of the run."""
    key = promotion_report.write(made, store=now.services.store)
    log.info("%s/%s\n%s", now.services.store.address, key, promotion_report.markdown(made))
    run_notes.leave(run_note.of_promotion(made, page=store_links.report_address(now.dag_id, now.run_id)))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
