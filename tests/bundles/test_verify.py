"""Verify names every file that is not as the manifest says."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.stages import NOW, PROVENANCE, tiny_stage
from onnx_fleet.bundles import bundle
from onnx_fleet.bundles.publish import publish
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.bundles.verify import require_intact, verify
from onnx_fleet.errors import BundleCorrupt, BundleNotFound
from onnx_fleet.store import ObjectStore

MODEL = "acme/tiny"


@pytest.fixture
def prefix(tmp_path: Path, any_store: ObjectStore) -> str:
    """Of a published bundle's keys."""
    publish(Stage.open(tiny_stage(tmp_path / "stage")), store=any_store, provenance=PROVENANCE, created_at=NOW)
    return bundle.find(MODEL, store=any_store).prefix


def _overwrite(store: ObjectStore, key: str, data: bytes) -> None:
    _data, etag = store.read_tagged(key)
    store.replace(key, data, etag=etag)


def test_one_flipped_byte_is_named(any_store: ObjectStore, prefix: str) -> None:
    data = bytearray(any_store.read(f"{prefix}onnx/model.onnx_data"))
    data[7] ^= 1
    _overwrite(any_store, f"{prefix}onnx/model.onnx_data", bytes(data))

    (fault,) = verify(MODEL, store=any_store).faults
    assert (fault.path, fault.fault) == ("onnx/model.onnx_data", "changed")


def test_a_cut_file_a_missing_one_and_an_extra_one_are_all_named(any_store: ObjectStore, prefix: str) -> None:
    _overwrite(any_store, f"{prefix}tokenizer.json", b"{")
    any_store.delete(f"{prefix}LICENSE")
    any_store.create(f"{prefix}onnx/other.onnx", b"?")

    report = verify(MODEL, store=any_store)
    assert [(fault.path, fault.fault) for fault in report.faults] == [
        ("LICENSE", "missing"),
        ("tokenizer.json", "changed"),
        ("onnx/other.onnx", "extra"),
    ]
    assert not report.passed
    with pytest.raises(BundleCorrupt, match=r"LICENSE: missing .*tokenizer\.json: changed .*other\.onnx: extra"):
        require_intact(report)


def test_an_intact_bundle_passes_by_channel_and_by_version(any_store: ObjectStore, prefix: str) -> None:
    version = prefix.split("/")[-2]
    told: list[tuple[int, int]] = []
    report = verify(f"{MODEL}@{version}", store=any_store, progress=lambda *pair: told.append(pair))

    assert report.passed
    assert (report.files, told[-1]) == (9, (report.size_bytes, report.size_bytes))
    assert verify(f"{MODEL}@latest", store=any_store) == report
    require_intact(report)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"schema_version": 1}'])
def test_a_damaged_manifest_is_corrupt(any_store: ObjectStore, prefix: str, damage: bytes) -> None:
    _overwrite(any_store, f"{prefix}manifest.json", damage)
    with pytest.raises(BundleCorrupt, match="make a new version"):
        verify(MODEL, store=any_store)


def test_a_manifest_of_another_bundle_is_corrupt(any_store: ObjectStore, prefix: str) -> None:
    data = any_store.read(f"{prefix}manifest.json")
    _overwrite(
        any_store, f"{prefix}manifest.json", data.replace(b'"model_id": "acme/tiny"', b'"model_id": "evil/tiny"')
    )
    with pytest.raises(BundleCorrupt, match="is the manifest of evil/tiny"):
        verify(MODEL, store=any_store)


@pytest.mark.parametrize("ref", ["acme/other", "acme/tiny@stable", "acme/tiny@00000000-00000000"])
def test_what_is_not_there_is_not_found(any_store: ObjectStore, prefix: str, ref: str) -> None:
    with pytest.raises(BundleNotFound, match="onnx-fleet list"):
        verify(ref, store=any_store)


@pytest.mark.parametrize(
    "ref", ["", "tiny", "acme/tiny/more", "../tiny", "acme/..", "acme/tiny@", "acme/tiny@../x", "a b/c"]
)
def test_a_ref_that_names_no_bundle_is_told_how_to_write_one(any_store: ObjectStore, ref: str) -> None:
    with pytest.raises(BundleNotFound, match="write ORG/NAME, ORG/NAME@CHANNEL or ORG/NAME@VERSION"):
        verify(ref, store=any_store)
