"""Audits of what generates and sees, from publication to demotion: the same damage, found in every kind of bundle."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import jsonschema
import pytest
from onnx import ModelProto

from fixtures.audited import Audited, exported, put
from fixtures.moved import AUDIT
from fixtures.stages import NOW
from mutations import beside, decoder, seq2seq, vision
from mutations.mutation import change_graph
from onnx_fleet.bundles import bundle, channels
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.entry import Entry
from onnx_fleet.graphs import description
from onnx_fleet.runs import audit, rollback
from onnx_fleet.runs.audit import Audit, Target
from onnx_fleet.runs.services import Services
from onnx_fleet.store import ObjectStore, open_store, transfer

pytestmark = pytest.mark.timeout(900)

AUDITED_AT = NOW + timedelta(days=30)
SCHEMA = Path(__file__).parents[2] / "docs" / "audit.schema.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of bundle, and how it is broken."""

    architecture: str
    task: str
    role: str
    """The graph that is changed, and recorded as it is then."""
    change: Callable[[ModelProto], None]
    check: str
    """What names the change."""
    exchange: Callable[[Path], None]
    """A file beside the graphs is another model's."""
    exchange_check: str
    variants: tuple[str, ...] = ("fp32",)

    @property
    def model_id(self) -> str:
        return f"acme/{self.architecture}"


KINDS: Mapping[str, Kind] = {
    "decoder": Kind(
        architecture="GPT2LMHeadModel",
        task="text-generation",
        role="model",
        change=decoder.cache_outputs_reordered,
        check="contract",
        exchange=beside.letters_exchanged,
        exchange_check="tokenizer",
        variants=("fp32", "fp16"),
    ),
    "seq2seq": Kind(
        architecture="BartForConditionalGeneration",
        task="summarization",
        role="decoder_model_merged",
        change=seq2seq.cross_keys_and_values_swapped,
        check="cache",
        exchange=beside.letters_exchanged,
        exchange_check="tokenizer",
    ),
    "vision": Kind(
        architecture="ViTForImageClassification",
        task="image-classification",
        role="model",
        change=vision.colours_reversed,
        check="parity",
        exchange=beside.image_mean_of_another,
        exchange_check="packed_files",
    ),
}


@pytest.fixture(scope="module", params=KINDS)
def name(request: pytest.FixtureRequest) -> str:
    """Of a kind."""
    return str(request.param)


@pytest.fixture(scope="module")
def made(name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Audited]:
    """A stage as far as its publication; read only."""
    from zoo import ARCHITECTURES
    from zoo.repo import save

    kind = KINDS[name]
    (architecture,) = (row for row in ARCHITECTURES if row.name == kind.architecture)
    entry = Entry(repo_id=kind.model_id, task=kind.task, variants=kind.variants)
    with exported(tmp_path_factory.mktemp(name), entry=entry, save=lambda folder: save(architecture, folder)) as found:
        yield found


@pytest.fixture
def services(made: Audited, tmp_path: Path) -> Services:
    """An empty store, and the Hub that has the source."""
    (tmp_path / "store").mkdir()
    return replace(made.services, store=open_store(str(tmp_path / "store")), work_dir=tmp_path / "work")


def _audit(kind: Kind, version: str, *, services: Services) -> Audit:
    found = audit.audit(Target(model_id=kind.model_id, version=version), services=services, now=AUDITED_AT)
    kept = json.loads(services.store.read(audit.key_of(found)))
    jsonschema.validate(kept, json.loads(SCHEMA.read_text()))
    assert kept["verdict"] == found.verdict
    return found


def _failed(found: Audit) -> set[str]:
    return {row.check for row in found.checks if not row.passed}


def _state(store: ObjectStore, prefix: str = "") -> dict[str, str]:
    return {info.key: transfer.sha256_of(store.read(info.key)) for info in store.list(prefix)}


def _change_and_record(folder: Path, kind: Kind) -> None:
    """As an exporter with that fault would leave it: nothing but the proof can tell."""
    change_graph(folder / "onnx" / f"{kind.role}.onnx", kind.change)
    record = Stage.open(folder).read_export()
    graphs = [
        description.describe(folder / info.path, role=info.role, variant=info.variant, bundle=folder)
        for info in record.graphs
    ]
    Stage.open(folder).write_export(replace(record, graphs=tuple(graphs)))


def test_a_wrong_graph_is_told_from_a_sound_one_and_its_channel_goes_back(
    name: str, made: Audited, services: Services, tmp_path: Path
) -> None:
    kind = KINDS[name]
    sound = put(made.stage_dir, services.store)
    wrong = made.copy(tmp_path / "wrong", digit="b")
    _change_and_record(wrong, kind)
    bad = put(wrong, services.store, days=1)
    before = _state(services.store, "models/")

    passed, failed = (_audit(kind, version, services=services) for version in (sound, bad))

    assert (passed.verdict, _failed(passed)) == ("passed", set())
    assert [(each.variant, each.passed) for each in passed.variants] == [(each, True) for each in kind.variants[1:]]
    assert (failed.verdict, failed.files) == ("failed", ())
    assert kind.check in _failed(failed)
    assert kind.check in failed.reason
    assert _state(services.store, "models/") == before, "audits leave bundles and channels as they are"

    whole = _state(services.store)
    demote = rollback.demote
    dry = demote(failed, channel="latest", services=services, by=AUDIT, now=AUDITED_AT, known=[passed], dry_run=True)
    assert dry is not None
    assert (dry.to, dry.moved) == (sound, False)
    assert _state(services.store) == whole
    done = demote(failed, channel="latest", services=services, by=AUDIT, now=AUDITED_AT, known=[passed])
    assert done is not None
    assert (done.version, done.to, done.moved) == (bad, sound, True)
    pointer = channels.read(services.store, kind.model_id, "latest")
    assert (pointer.version, pointer.previous, pointer.held) == (sound, bad, True)
    after = _state(services.store)
    assert [key for key in after if after[key] != whole.get(key)] == [
        f"history/{kind.model_id}/latest/{pointer.row}.json",
        f"models/{kind.model_id}/channels/latest.json",
    ]


def test_a_byte_of_the_weights_is_named_before_anything_is_run(name: str, made: Audited, services: Services) -> None:
    kind = KINDS[name]
    version = put(made.stage_dir, services.store)
    found = bundle.find(kind.model_id, store=services.store)
    graphs = [file for file in found.manifest.files if file.path.startswith("onnx/")]
    largest = max(graphs, key=lambda file: file.size_bytes)
    data, etag = services.store.read_tagged(found.key(largest.path))
    place = len(data) // 2
    services.store.replace(
        found.key(largest.path), data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :], etag=etag
    )

    told = _audit(kind, version, services=services)

    assert (told.verdict, told.checks, told.runs, told.variants) == ("failed", (), (), ())
    assert [(fault.path, fault.fault) for fault in told.files] == [(largest.path, "changed")]
    assert largest.path in told.reason


def test_a_file_of_another_model_beside_right_graphs_is_named_by_its_check(
    name: str, made: Audited, services: Services, tmp_path: Path
) -> None:
    kind = KINDS[name]
    folder = made.copy(tmp_path / "exchanged", digit="c")
    kind.exchange(folder)

    told = _audit(kind, put(folder, services.store), services=services)

    assert (told.verdict, told.files) == ("failed", ())
    assert kind.exchange_check in _failed(told)
    assert _failed(told) & {"contract", "external_data", "weights", "cache"} == set()
