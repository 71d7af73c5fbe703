"""What a repo leaves out is made up for in what is loaded and packed: held to transformers on the repo itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import transformers

from fixtures.encoders import save_encoder
from fixtures.items import work_item
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.entry import Entry
from onnx_fleet.export import exporter
from onnx_fleet.planning import toolchain
from onnx_fleet.processes.isolation import Limits
from onnx_fleet.source import checkpoint
from onnx_fleet.source.download import download
from onnx_fleet.source.hub_client import Hub
from onnx_fleet.source.resolve import resolve
from onnx_fleet_demo.hub_server import HubServer

HALF = {"architecture": "BertForMaskedLM", "task": "fill-mask", "weights_variant": "fp16"}

Serve = Callable[..., Path]


@pytest.fixture
def serve(hub_server: HubServer, small_repo: Path) -> Serve:
    """Put a masked language model of a variant, in one file or several, under the root that the Hub serves."""

    def made(
        repo_id: str, *, variant: str | None = None, max_shard_size: str = "1GB", drop: tuple[str, ...] = ()
    ) -> Path:
        folder = hub_server.repos.root / repo_id
        save_encoder(folder, model_type="bert", auto_class="AutoModelForMaskedLM", tokenizer_from=small_repo)
        model = transformers.AutoModelForMaskedLM.from_pretrained(folder)
        (folder / "model.safetensors").unlink()
        model.to(torch.float16 if variant else torch.float32)
        model.save_pretrained(folder, variant=variant, max_shard_size=max_shard_size)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({key: config[key] for key in config if key not in drop}))
        return folder

    return made


@pytest.mark.parametrize("shard", ["1GB", "100KB"], ids=["one file", "several"])
def test_a_variant_is_loaded_as_transformers_loads_it(hub: Hub, serve: Serve, shard: str) -> None:
    folder = serve("acme/half", variant="fp16", max_shard_size=shard)
    with pytest.raises(Exception, match="weights_variant: fp16"):
        resolve(Entry(repo_id="acme/half"), hub=hub)
    model = resolve(Entry(repo_id="acme/half", weights_variant="fp16"), hub=hub)
    source = download(model, hub=hub)
    assert source == download(model, hub=hub)

    own = transformers.BertForMaskedLM.from_pretrained(folder, variant="fp16").state_dict()
    found = transformers.BertForMaskedLM.from_pretrained(source).state_dict()
    assert own.keys() == found.keys()
    assert all(torch.equal(own[name], found[name]) for name in own)
    stored = checkpoint.read(source)
    assert {tensor.dtype for tensor in stored.values()} == {"float16"}
    assert len({tensor.file for tensor in stored.values()}) == (
        1 if shard == "1GB" else len(list(folder.glob("*-of-*")))
    )


def test_the_plain_weights_stay_the_plain_ones_beside_a_variant(hub: Hub, serve: Serve) -> None:
    folder = serve("acme/both")
    transformers.BertForMaskedLM.from_pretrained(folder).to(torch.float16).save_pretrained(folder, variant="fp16")
    plain = download(resolve(Entry(repo_id="acme/both"), hub=hub), hub=hub)
    half = download(resolve(Entry(repo_id="acme/both", weights_variant="fp16"), hub=hub), hub=hub)
    assert {tensor.dtype for tensor in checkpoint.read(plain).values()} == {"float32"}
    assert {tensor.dtype for tensor in checkpoint.read(half).values()} == {"float16"}


def test_what_a_config_leaves_out_is_in_the_bundle_which_says_so(hub: Hub, serve: Serve, tmp_path: Path) -> None:
    folder = serve("acme/old", variant="fp16", drop=("architectures", "model_type"))
    model = resolve(Entry(repo_id="acme/old", **HALF), hub=hub)  # type: ignore[arg-type]
    source = download(model, hub=hub)
    item = work_item(source, task="fill-mask")
    item = replace(item, model=model)
    item = replace(item, toolchain=toolchain.versions())
    limits = Limits(timeout_s=240)
    made = exporter.export(Stage(tmp_path / "stage", item), source_dir=source, limits=limits)

    assert {key: made.settings[key] for key in ("architecture", "weights_variant", "config_completed")} == {
        "architecture": "BertForMaskedLM",
        "weights_variant": "fp16",
        "config_completed": "architectures, model_type",
    }
    assert not [path for path in Stage.open(tmp_path / "stage").published_files() if "safetensors" in path]
    own = transformers.BertForMaskedLM.from_pretrained(folder, variant="fp16", dtype=torch.float32).eval()
    packed = transformers.AutoConfig.from_pretrained(tmp_path / "stage")
    assert (type(packed), packed.architectures) == (transformers.BertConfig, ["BertForMaskedLM"])

    feed = {"input_ids": np.array([[2, 7, 11, 9, 3]]), "attention_mask": np.ones((1, 5), np.int64)}
    session = onnxruntime.InferenceSession(tmp_path / "stage" / "onnx" / "model.onnx")
    takes = {each.name for each in session.get_inputs()}
    extra = {"token_type_ids": np.zeros((1, 5), np.int64)} if "token_type_ids" in takes else {}
    (logits,) = session.run(["logits"], {**feed, **extra})
    with torch.no_grad():
        expected = own(**{name: torch.from_numpy(array) for name, array in feed.items()}).logits.numpy()
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(logits, expected, atol=1e-4)
