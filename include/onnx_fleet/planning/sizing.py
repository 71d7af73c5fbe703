"""What each model of a plan takes: predicted, put in order, and refused where no worker can hold it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from onnx_fleet import recipes
from onnx_fleet.bundles import costs
from onnx_fleet.bundles.costs import EarlierCosts
from onnx_fleet.entities.sizing import Capacity, Estimate, SizingFacts, StepCost
from onnx_fleet.entities.work_item import Plan, Refusal, WorkItem
from onnx_fleet.errors import WorkerTooSmall
from onnx_fleet.formatting import human_bytes
from onnx_fleet.planning import cost_formula
from onnx_fleet.store import ObjectStore
from onnx_fleet.store.concurrency import at_once


def sized(plan: Plan, *, store: ObjectStore, largest_worker: Capacity) -> Plan:
    """Return the plan with an estimate for every model to export, and the models in the order in which they begin.

    Within a priority the longest goes first, so that no long model is left for the end, when all other workers have
    nothing to do. A model for which no worker is large enough is refused, and nothing of it is downloaded.

    Raises:
        StoreUnavailable, StoreNotFound: the store cannot be asked.
    """
    items = at_once(lambda item: _with_estimate(item, store=store), plan.items, threads="sizing")
    refusals = {item.model_id: refusal for item in items if (refusal := _refuse(item, largest_worker))}
    kept = sorted(_alike(sorted((item for item in items if item.model_id not in refusals), key=_order)), key=_order)
    together = sorted((*plan.refusals, *refusals.values()), key=lambda refusal: refusal.repo_id.lower())
    return replace(plan, items=tuple(kept), refusals=tuple(together))


def facts_of(item: WorkItem) -> SizingFacts:
    """Return what an item's prediction is made from."""
    model, entry = item.model, item.model.entry
    own_recipe = entry.recipe is not None and entry.recipe not in recipes.RECIPES
    return SizingFacts(
        family=item.family,
        float32_bytes=model.float32_bytes or model.size_bytes,
        download_bytes=model.size_bytes,
        variants=tuple(sorted(entry.variants)),
        latency=entry.latency,
        is_loaded_whole=own_recipe or any((entry.trust_remote_code, entry.allow_pickle)),
        replaces=item.state == "changed",
    )


def estimate(facts: SizingFacts, *, earlier: EarlierCosts | None = None) -> Estimate:
    """Predict what a model takes.

    Args:
        earlier: what the steps took when the model was last published. Memory and time then follow from these figures,
            and the formula only says how they change with what has changed since; disk follows from the files' sizes.
    """
    steps = cost_formula.predict(facts)
    if earlier is None:
        return Estimate.of(steps, basis="formula")
    before = cost_formula.predict(earlier.facts)
    known = {
        name: _scaled(earlier.steps[name], now=now, before=before[name])
        for name, now in steps.items()
        if name in earlier.steps and (name != "compare" or facts.replaces == earlier.facts.replaces)
    }
    return Estimate.of({**steps, **known}, basis="earlier run" if known else "formula")


def total(plan: Plan) -> StepCost | None:
    """Return what the models to export take one after the other on one machine; None where nothing is to do.

    The checkpoints stay in the Hub's cache, and the stage of one model at a time is on the disk.
    """
    made = [(item.model.size_bytes, item.estimate) for item in plan.to_export if item.estimate]
    if not made:
        return None
    return StepCost(
        memory_bytes=max(each.memory_bytes for _, each in made),
        disk_bytes=sum(size for size, _ in made) + max(each.disk_bytes - size for size, each in made),
        seconds=round(sum(each.seconds for _, each in made), 1),
    )


def _with_estimate(item: WorkItem, *, store: ObjectStore) -> WorkItem:
    if item.state == "unchanged":
        return item
    return replace(item, estimate=estimate(facts_of(item), earlier=costs.find(store, item.model_id)))


def _alike(items: Sequence[WorkItem]) -> Iterator[WorkItem]:
    """Yield the items, those of a kind that was made before them with what they take then."""
    seen = {_kind(item) for item in items if item.state == "unchanged"}
    for item in items:
        entry, kind = item.model.entry, _kind(item)
        takes_over = entry.latency.reuse != "never" and entry.proof != "full" and item.rebuild is None
        if item.estimate and item.estimate.basis == "formula" and takes_over and kind in seen:
            steps = cost_formula.predict_alike(facts_of(item))
            yield replace(item, estimate=Estimate.of(steps, basis="model alike"))
        else:
            yield item
        seen.add(kind)


def _kind(item: WorkItem) -> tuple[object, ...]:
    """Return what two models have in common that probably have the same graphs: whether they do, their export finds."""
    model = item.model
    facts = replace(facts_of(item), download_bytes=0, replaces=False)
    return model.architecture, model.task, model.entry.recipe, facts


def _scaled(taken: StepCost, *, now: StepCost, before: StepCost) -> StepCost:
    return StepCost(
        memory_bytes=int(taken.memory_bytes * now.memory_bytes / before.memory_bytes),
        disk_bytes=now.disk_bytes,
        seconds=round(taken.seconds * now.seconds / before.seconds, 1),
    )


def _order(item: WorkItem) -> tuple[float, float, str, str]:
    seconds = item.estimate.seconds if item.estimate else 0.0
    return -item.model.entry.priority, -seconds, item.model_id.lower(), item.model_id


def _refuse(item: WorkItem, largest: Capacity) -> Refusal | None:
    if item.estimate is None:
        return None
    steps = item.estimate.steps
    hungriest = max(steps, key=lambda name: steps[name].memory_bytes)
    fullest = max(steps, key=lambda name: steps[name].disk_bytes)
    for what, step, needed, limit in (
        ("memory", hungriest, steps[hungriest].memory_bytes, largest.memory_bytes),
        ("disk", fullest, steps[fullest].disk_bytes, largest.disk_bytes),
    ):
        if limit is not None and needed > limit:
            error = WorkerTooSmall(
                f"{item.model.at_commit}: {step} is predicted to need {human_bytes(needed)} of {what}, and the largest"
                f" worker has {human_bytes(limit)}; give a worker more and raise [onnx_fleet] worker_{what}_bytes"
                f" (ONNX_FLEET_WORKER_{what.upper()}_BYTES for the command line), or remove the entry"
            )
            return Refusal.of(item.model_id, error, step="plan", commit=item.model.commit)
    return None
