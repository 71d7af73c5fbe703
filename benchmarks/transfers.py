"""What the stages of models send through the store where no two steps share a disk, by the size of the model.

    python -m benchmarks.transfers

Every step is taken by the other of two workers, each with caches of its own, before the demo's Hub and S3 server. Large
files are counted; work items and lists of files are a few KB. Each model is made once, and once more under another
version, as after an upgrade of the packages.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks import options
from benchmarks.tables import megabytes, table
from onnx_fleet.bundles.manifest import Provenance
from onnx_fleet.entities.entry import Entry, LatencyGrid
from onnx_fleet.processes.isolation import machine_limits
from onnx_fleet.runs import pipeline
from onnx_fleet.runs.services import Services
from onnx_fleet.runs.stage_transfer import ThroughStore
from onnx_fleet.runs.steps import Job, steps_of
from onnx_fleet.source.hub_client import Hub, HubSettings
from onnx_fleet.store import ObjectStore, open_store
from onnx_fleet.store.blob_cache import BlobCache
from onnx_fleet.store.metered import MeteredStore
from onnx_fleet_demo import models
from onnx_fleet_demo.hub_server import HubServer
from onnx_fleet_demo.s3_server import EmbeddedS3

MODELS = (
    (models.CLASSIFIER, ("fp32",)),
    (models.MINILM, ("fp32",)),
    (models.MINILM, ("fp32", "fp16", "int8")),
)
WORKERS = 2
_RUN = "benchmark"
_BLOBS_BYTES = 1 << 34


def moved(
    folder: Path, store: ObjectStore, *, hub: str, entry: Entry, force: str | None = None
) -> tuple[int, Counter[str]]:
    """Make one model on two workers; returns the bytes of its checkpoint, and bytes of the store by their way.

    Args:
        force: what another version is called after that is made although one stands; None makes the first one.
    """
    counted: Counter[str] = Counter()
    metered = MeteredStore(store=store, count=lambda way, count: counted.update({way: count}))
    services = [
        Services(
            store=metered,
            hub=Hub(HubSettings(endpoint=hub, cache_dir=folder / f"hub-{number}")),
            work_dir=folder / f"work-{number}",
            limits=machine_limits(),
        )
        for number in range(WORKERS)
    ]
    [item] = pipeline.plan([entry], services=services[0], force=force).items
    provenance = Provenance(dag_id=_RUN, run_id=_RUN, trigger="manual", catalogue_digest=None)
    for turn, step in enumerate(steps_of(item)):
        number = turn % WORKERS
        blobs = BlobCache(folder=folder / f"blobs-{number}", limit_bytes=_BLOBS_BYTES)
        handover = ThroughStore(run=_RUN, services=services[number], blobs=blobs)
        if turn == 0:
            handover.write_item(item)
        with handover.opened(item, step.name) as stage:
            stored = handover.stored(item) if step.name == "publish" else {}
            step.take(Job(stage=stage, services=services[number], provenance=provenance, stored=stored))
    return sum(file.size_bytes for file in item.model.files if file.path.endswith(".safetensors")), counted


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each model in a store of its own, and print a table."""
    chosen = options.parser("transfers", __doc__).parse_args(arguments)
    place = chosen.folder / "transfers"
    shutil.rmtree(place, ignore_errors=True)
    models.make_repos(place / "repos", repo_ids=tuple(dict.fromkeys(name for name, _ in MODELS)))
    rows = []
    with HubServer(place / "repos") as hub, EmbeddedS3(place / "s3") as s3:
        for number, (name, variants) in enumerate(MODELS):
            store = open_store(f"{s3.address}/{number}", s3=s3.settings)
            grid = LatencyGrid(batch_sizes=(1,), sequence_lengths=(16,), warmup_runs=1, timed_runs=3)
            entry = Entry(repo_id=name, variants=variants, latency=grid)
            for made, force in (("first", None), ("after an upgrade", "upgrade")):
                size_bytes, counted = moved(place / str(number), store, hub=hub.url, entry=entry, force=force)
                ways = (counted[way] for way in ("sent", "reused", "fetched"))
                rows.append((name, ", ".join(variants), made, megabytes(size_bytes), *map(megabytes, ways)))
    header = ("model", "variants", "made", "checkpoint, MB", "sent, MB", "copied by the store, MB", "fetched, MB")
    print(table(header, rows))


if __name__ == "__main__":
    main()
