"""What one export leaves for the next of its kind: the same bundle in a fraction of the time, and never a wrong one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper
from safetensors.numpy import load_file, save_file

from fixtures.deep import Deep, save_deep
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.entry import Entry
from onnx_fleet.entities.export_record import ExportRecord
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.export import cache_keys, exporter, traced_model
from onnx_fleet.export.cache import Cache
from onnx_fleet.processes import machine_lock
from onnx_fleet.processes.isolation import Limits
from onnx_fleet.runs import exporting, proving
from onnx_fleet.runs.services import Services
from onnx_fleet.source import checkpoint, resolve
from onnx_fleet.source.hub_client import Hub, HubSettings
from onnx_fleet.store import archive, layout
from onnx_fleet.store.local import LocalStore
from onnx_fleet.validation import validator
from onnx_fleet_demo.hub_server import HubServer

LIMITS = Limits(memory_bytes=6 << 30, timeout_s=240)
ROW = "BertForSequenceClassification"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fleet:
    """Two models of one architecture, and what the export of the first one left."""

    first: Deep
    second: Deep
    folder: Path
    stage_dir: Path
    record: ExportRecord
    archives: dict[str, bytes]
    """By their keys in the store."""

    @property
    def stage(self) -> Stage:
        """The stage as it is now."""
        return Stage.open(self.stage_dir)

    def cache(self, folder: Path) -> Cache:
        """A store with these archives, to be changed."""
        store = LocalStore(folder / "store")
        for place, data in self.archives.items():
            store.create(place, data)
        return Cache(store=store)

    def place(self, kind: str) -> str:
        (found,) = (place for place in self.archives if place.startswith(f"{layout.CACHE}{kind}/"))
        return found


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> _Fleet:
    folder = tmp_path_factory.mktemp("fleet")
    first = save_deep(ROW, folder / "hub", repo="acme", num_labels=5)
    second = save_deep(ROW, folder / "hub", repo="beta", num_labels=5)
    weights_file = second.source_dir / "model.safetensors"
    other = {name: np.flip(value).copy() for name, value in load_file(weights_file).items()}
    save_file(other, weights_file, metadata={"format": "pt"})
    store = LocalStore(folder / "store")
    stage_dir = folder / "stage"
    record = exporter.export(
        Stage(stage_dir, first.item), source_dir=first.source_dir, limits=LIMITS, cached=Cache(store=store)
    )
    archives = {info.key: store.read(info.key) for info in store.list(layout.CACHE)}
    return _Fleet(first=first, second=second, folder=folder, stage_dir=stage_dir, record=record, archives=archives)


def _export(deep: Deep, stage_dir: Path, cache: Cache, **settings: Any) -> ExportRecord:
    return exporter.export(
        Stage(stage_dir, deep.item), source_dir=deep.source_dir, limits=LIMITS, cached=cache, **settings
    )


def _published(stage_dir: Path) -> dict[str, bytes]:
    paths = (path for path in Stage.open(stage_dir).published_files() if not path.startswith("reports/"))
    return {path: (stage_dir / path).read_bytes() for path in paths}


def _wrong(data: bytes) -> bytes:
    """The archive with every constant of its graph half as large, and all its digests right."""
    found = traced_model.unpack(data)
    for model in found.graphs.values():
        for tensor in model.graph.initializer:
            if tensor.data_type == TensorProto.FLOAT and not tensor.external_data:
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) / 2, tensor.name))
    return traced_model.pack(replace(found, way="unrolled"))


def test_an_export_leaves_its_graphs_and_its_tokenizer(fleet: _Fleet) -> None:
    tensors = checkpoint.read(fleet.first.source_dir)
    key = cache_keys.of_graphs(fleet.first.item, source_dir=fleet.first.source_dir, tensors=tensors)

    assert fleet.record.traced == "unrolled"
    assert fleet.record.graph_key == key
    assert fleet.archives.keys() == {
        layout.cache_key("graphs", str(key)),
        layout.cache_key(
            "tokenizers", str(cache_keys.of_tokenizer(fleet.first.item, source_dir=fleet.first.source_dir))
        ),
    }


def test_an_export_with_the_cache_is_the_same_to_the_byte(fleet: _Fleet, tmp_path: Path) -> None:
    record = _export(fleet.first, tmp_path / "stage", fleet.cache(tmp_path))

    assert record.traced == "cached"
    assert replace(record, traced="unrolled", duration_s=0, peak_memory_bytes=0) == replace(
        fleet.record, duration_s=0, peak_memory_bytes=0
    )
    assert _published(tmp_path / "stage") == _published(fleet.stage_dir)


_WITHOUT_TORCH = """
import json, sys
from pathlib import Path
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.export import exporter
from onnx_fleet.export.cache import Cache
from onnx_fleet.processes.isolation import Limits
from onnx_fleet.store.local import LocalStore
work, source, made, store = map(Path, sys.argv[1:])
record = exporter.export(Stage(made, Stage.open(work).item), source_dir=source, limits=Limits(timeout_s=240),
                         cached=Cache(store=LocalStore(store)))
print(json.dumps([record.traced, [name for name in ("torch", "transformers") if name in sys.modules]]))
"""


def test_other_weights_of_the_same_kind_are_exported_without_torch(fleet: _Fleet, tmp_path: Path) -> None:
    fleet.cache(tmp_path)
    Stage.make(tmp_path / "work", fleet.second.item)
    paths = (tmp_path / "work", fleet.second.source_dir, tmp_path / "stage", tmp_path / "store")
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_TORCH, *map(str, paths)], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == ["cached", []]
    report = validator.validate(Stage.open(tmp_path / "stage"), source_dir=fleet.second.source_dir)
    assert report.passed
    first, second = _published(fleet.stage_dir)["onnx/model.onnx"], _published(tmp_path / "stage")["onnx/model.onnx"]
    assert first != second


def test_models_alike_that_begin_at_the_same_time_are_traced_once(fleet: _Fleet, tmp_path: Path) -> None:
    """The first one of a fleet has left nothing yet when the second one begins."""
    cache, both = Cache(store=LocalStore(tmp_path / "store")), Barrier(2, timeout=60)

    def turn(name: str) -> AbstractContextManager[None]:
        both.wait()
        return machine_lock.turn(tmp_path, name)

    def made(deep: Deep) -> str:
        return _export(deep, tmp_path / deep.item.model_id, cache, turn=turn).traced

    with ThreadPoolExecutor(2) as pool:
        ways = sorted(pool.map(made, (fleet.first, fleet.second)))

    assert ways == ["cached", "unrolled"]


def test_whoever_waited_for_a_trace_that_failed_traces_itself(fleet: _Fleet, tmp_path: Path) -> None:
    @contextmanager
    def turn(name: str) -> Iterator[None]:
        yield  # the one before has left nothing

    cache = Cache(store=LocalStore(tmp_path / "store"))
    assert _export(fleet.first, tmp_path / "stage", cache, turn=turn).traced == "unrolled"


def test_what_is_made_again_on_purpose_waits_for_nobody(fleet: _Fleet, tmp_path: Path) -> None:
    def turn(name: str) -> AbstractContextManager[None]:
        raise AssertionError(name)

    asked = replace(fleet.first, item=replace(fleet.first.item, rebuild="run-1"))
    assert _export(asked, tmp_path / "stage", fleet.cache(tmp_path), turn=turn).traced == "unrolled"


def test_a_damaged_entry_is_traced_again_and_replaced(fleet: _Fleet, tmp_path: Path) -> None:
    cache = fleet.cache(tmp_path)
    path = tmp_path / "store" / fleet.place("graphs")
    path.write_bytes(path.read_bytes()[:-100])
    record = _export(fleet.first, tmp_path / "stage", cache)

    assert record.traced == "unrolled"
    assert _published(tmp_path / "stage") == _published(fleet.stage_dir)
    assert cache.store.read(fleet.place("graphs")) == fleet.archives[fleet.place("graphs")]


@pytest.mark.parametrize("tokenizer", [True, False], ids=["with its tokenizer", "without"])
def test_graphs_of_another_checkpoint_are_traced_again_and_replaced(
    fleet: _Fleet, tmp_path: Path, tokenizer: bool
) -> None:
    """Whole, under a key that is not theirs."""
    found = traced_model.unpack(fleet.archives[fleet.place("graphs")])
    for tensor in found.graphs["model"].graph.initializer:
        if tensor.name == "classifier.weight":
            tensor.dims[0] += 1
    cache = fleet.cache(tmp_path)
    cache.store.delete(fleet.place("graphs"))
    cache.store.create(fleet.place("graphs"), traced_model.pack(found))
    if not tokenizer:
        cache.store.delete(fleet.place("tokenizers"))
    record = _export(fleet.first, tmp_path / "stage", cache)

    assert record.traced == "unrolled"
    assert _published(tmp_path / "stage") == _published(fleet.stage_dir)
    assert cache.store.read(fleet.place("graphs")) == fleet.archives[fleet.place("graphs")]


def test_a_rebuild_does_not_read_it(fleet: _Fleet, tmp_path: Path) -> None:
    cache = fleet.cache(tmp_path)
    again = replace(fleet.first, item=replace(fleet.first.item, rebuild="as asked"))
    cache.store.delete(fleet.place("graphs"))
    cache.store.create(fleet.place("graphs"), _wrong(fleet.archives[fleet.place("graphs")]))
    record = _export(again, tmp_path / "stage", cache)

    assert record.traced == "unrolled"
    assert _published(tmp_path / "stage") == _published(fleet.stage_dir)


@pytest.fixture(scope="module")
def hub_of_fleet(fleet: _Fleet) -> Iterator[Hub]:
    with HubServer(fleet.folder / "hub") as server:
        yield Hub(HubSettings(endpoint=server.url, cache_dir=fleet.folder / "hub-cache"))


@pytest.fixture
def services(fleet: _Fleet, hub_of_fleet: Hub, tmp_path: Path) -> Services:
    return Services(store=fleet.cache(tmp_path).store, hub=hub_of_fleet, work_dir=tmp_path / "work", limits=LIMITS)


def _resolved(fleet: _Fleet, services: Services) -> WorkItem:
    """The second model as the Hub has it, to be made with the first one's graphs."""
    entry = Entry(repo_id=f"beta/{ROW}", task="text-classification")
    return replace(fleet.second.item, model=resolve.resolve(entry, hub=services.hub))


def test_a_wrong_graph_in_the_cache_is_found_by_validation_and_replaced(
    fleet: _Fleet, services: Services, tmp_path: Path
) -> None:
    place, bad = fleet.place("graphs"), _wrong(fleet.archives[fleet.place("graphs")])
    services.store.delete(place)
    services.store.create(place, bad)
    item = _resolved(fleet, services)
    made = services.stage(item)

    assert exporting.export(made, services=services).traced == "cached"
    edited = Stage(shutil.copytree(made.folder, tmp_path / "edited"), item)
    (edited.folder / "config.json").touch()
    assert not proving.validate(edited, services=services).graphs.passed
    assert edited.read_export().traced == "cached", "what a person has changed is left as it is"
    proof = proving.validate(made, services=services)

    assert proof.graphs.passed
    assert made.read_export().traced == "full"
    kept = services.store.read(place)
    _, about = archive.unpack(kept)
    assert kept != bad
    assert isinstance(about, dict)
    assert about["way"] == "full"
