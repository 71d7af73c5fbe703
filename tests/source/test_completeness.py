"""A model is loaded as its source's own class and with every tensor of its checkpoint, or it is said why not."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from fixtures.items import work_item
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.errors import ExportUnsupported, ModelInvalid
from onnx_fleet.source import checkpoint, families
from onnx_fleet.source.families import completeness
from onnx_fleet.source.families.completeness import Account
from onnx_fleet.source.placeholder_weights import PlaceholderWeights

_SIZES: Mapping[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 24,
}
_T5: Mapping[str, Any] = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
_GPT2: Mapping[str, Any] = {"vocab_size": 40, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 24}
_WAV2VEC2: Mapping[str, Any] = {
    **_SIZES,
    "conv_dim": [8],
    "conv_kernel": [10],
    "conv_stride": [5],
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "codevector_dim": 8,
    "num_codevector_groups": 2,
    "num_codevectors_per_group": 4,
    "proj_codevector_dim": 8,
}


class Repo:
    """A source's folder, made from a class of transformers, then changed."""

    def __init__(self, folder: Path, name: str, sizes: Mapping[str, Any]) -> None:
        self.folder = folder / "acme" / "model"
        torch.manual_seed(3)
        cls = getattr(transformers, name)
        self.model: PreTrainedModel = cls(cls.config_class(**sizes))
        self.model.save_pretrained(self.folder)

    def says(self, architecture: str | None) -> Repo:
        """config.json names another class, or none."""
        path = self.folder / "config.json"
        config = json.loads(path.read_bytes())
        config["architectures"] = [architecture]
        path.write_text(json.dumps(config))
        return self

    def tensors(self, change: Callable[[dict[str, torch.Tensor]], Mapping[str, torch.Tensor]]) -> Repo:
        """Its checkpoint has other tensors, by name."""
        path = self.folder / "model.safetensors"
        changed = {name: tensor.clone().contiguous() for name, tensor in change(load_file(path)).items()}
        save_file(changed, path, metadata={"format": "pt"})
        return self

    def with_tensors(self, *names: str, shape: tuple[int, ...] = (4, 16)) -> Repo:
        """Its checkpoint has more tensors."""
        return self.tensors(lambda found: {**found, **{name: torch.randn(shape) for name in names}})

    def with_modules(self, first: str, **settings: object) -> Repo:
        """It is a sentence-transformers model, whose first module is of this kind."""
        kind = f"sentence_transformers.models.{first}"
        pooling = {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
        modules = [{"idx": 0, "name": "0", "path": "", "type": kind}, pooling]
        (self.folder / "modules.json").write_text(json.dumps(modules))
        (self.folder / "sentence_bert_config.json").write_text(json.dumps(settings))
        (self.folder / "1_Pooling").mkdir()
        said = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}
        (self.folder / "1_Pooling" / "config.json").write_text(json.dumps(said))
        return self

    def item(self, task: str, *, asked: bool = False) -> WorkItem:
        """A work item whose task is the Hub's tag, or asked for by its entry."""
        item = work_item(self.folder, task=task)
        architecture = item.model.architecture or ""
        entry = replace(item.model.entry, task=task if asked else None)
        return replace(item, model=replace(item.model, entry=entry, architecture=architecture))

    def loaded(self, task: str, *, asked: bool = False) -> tuple[WorkItem, PreTrainedModel]:
        item = self.item(task, asked=asked)
        return item, families.family(item.family).load(item, self.folder, None)

    def account(self, task: str, *, asked: bool = False) -> Account:
        item, model = self.loaded(task, asked=asked)
        return completeness.account(item, model, source_dir=self.folder)

    def refusal(self, task: str, *, asked: bool = False) -> str:
        item, model = self.loaded(task, asked=asked)
        found = completeness.account(item, model, source_dir=self.folder)
        with pytest.raises(ExportUnsupported) as refused:
            completeness.require_complete(item, found, model=model)
        return str(refused.value)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("T5EncoderModel", _T5),
        ("MT5EncoderModel", _T5),
        ("UMT5EncoderModel", _T5),
        ("CLIPTextModelWithProjection", {**_SIZES, "projection_dim": 8}),
        ("CLIPTextModel", _SIZES),
        ("BertModel", _SIZES),
    ],
)
def test_the_class_that_the_source_names_is_loaded(name: str, config: Mapping[str, Any], tmp_path: Path) -> None:
    repo = Repo(tmp_path, name, config)

    item, model = repo.loaded("feature-extraction")

    assert type(model).__name__ == name
    found = completeness.account(item, model, source_dir=repo.folder)
    assert found.complete
    assert not found.left_out
    assert found.placed.keys() == checkpoint.read(repo.folder).keys()


def test_the_account_of_a_model_without_weights_is_the_same(tmp_path: Path) -> None:
    repo = Repo(tmp_path, "CLIPTextModelWithProjection", {**_SIZES, "projection_dim": 8})
    item = repo.item("feature-extraction")

    placeholders = families.family("encoder").load(
        item, repo.folder, PlaceholderWeights(checkpoint.read(repo.folder).values())
    )

    assert completeness.account(item, placeholders, source_dir=repo.folder) == repo.account("feature-extraction")


def test_a_projection_of_a_class_that_transformers_does_not_have_is_refused_by_name(tmp_path: Path) -> None:
    repo = Repo(tmp_path, "BertModel", _SIZES).says("HF_ColBERT").with_tensors("linear.weight")

    said = repo.refusal("sentence-similarity")

    assert "linear.weight" in said
    assert "HF_ColBERT" in said
    assert "trust_remote_code" in said


def test_the_entry_cannot_ask_for_less_of_a_class_that_nobody_knows(tmp_path: Path) -> None:
    repo = Repo(tmp_path, "BertModel", _SIZES).says("HF_ColBERT").with_tensors("linear.weight")

    assert "linear.weight" in repo.refusal("feature-extraction", asked=True)


def test_a_class_that_transformers_does_not_have_is_loaded_where_every_tensor_has_a_place(tmp_path: Path) -> None:
    repo = Repo(tmp_path, "LlamaForCausalLM", _SIZES).says("LLaMAForCausalLM")

    assert repo.account("text-generation").complete


def test_a_tensor_that_the_sources_own_class_has_no_place_for_is_refused(tmp_path: Path) -> None:
    repo = Repo(tmp_path, "CLIPTextModel", _SIZES).with_tensors("text_projection.weight", shape=(8, 16))

    assert "CLIPTextModel has no place for text_projection.weight" in repo.refusal("feature-extraction")


def test_no_message_lists_more_than_five_tensors(tmp_path: Path) -> None:
    names = [f"extra.{letter}.weight" for letter in "abcdefghijkl"]

    said = Repo(tmp_path, "BertModel", _SIZES).with_tensors(*names).refusal("feature-extraction")

    assert "extra.e.weight and 7 more" in said
    assert "extra.f.weight" not in said


def test_the_hubs_tag_does_not_take_a_models_head_away(tmp_path: Path) -> None:
    """SPLADE: a BERT whose scores of words are what it is for, tagged as one that gives features."""
    said = Repo(tmp_path, "BertForMaskedLM", _SIZES).refusal("feature-extraction")

    assert "BertForMaskedLM" in said
    assert "cls.predictions" in said
    assert "task" in said


def test_the_entry_may_ask_for_less_than_the_source_has(tmp_path: Path) -> None:
    found = Repo(tmp_path, "BertForMaskedLM", _SIZES).account("feature-extraction", asked=True)

    assert found.complete
    (left_out,) = found.left_out
    assert {name.rpartition(".predictions.")[0] for name in left_out.tensors} == {"cls"}
    assert "the entry asks for feature-extraction" in left_out.reason


def test_hidden_states_are_enough_where_the_sources_modules_say_so(tmp_path: Path) -> None:
    repo = Repo(tmp_path, "BertForMaskedLM", _SIZES).with_modules("Transformer", max_seq_length=20)

    (left_out,) = repo.account("sentence-similarity").left_out

    assert "modules.json" in left_out.reason


@pytest.mark.parametrize(
    ("first", "settings"), [("MLMTransformer", {}), ("Transformer", {"transformer_task": "fill-mask"})]
)
def test_hidden_states_are_not_enough_where_the_sources_modules_take_the_head(
    first: str, settings: dict[str, object], tmp_path: Path
) -> None:
    repo = Repo(tmp_path, "BertForMaskedLM", _SIZES).with_modules(first, **settings)

    assert "cls.predictions" in repo.refusal("feature-extraction")


def test_an_encoder_is_loaded_by_itself_where_no_more_is_asked_for(tmp_path: Path) -> None:
    repo = Repo(tmp_path, "T5ForConditionalGeneration", _T5).with_modules("Transformer")

    item, model = repo.loaded("sentence-similarity")

    assert type(model).__name__ == "T5EncoderModel"
    found = completeness.account(item, model, source_dir=repo.folder)
    assert found.complete
    assert {name.partition(".")[0] for each in found.left_out for name in each.tensors} == {"decoder"}


def test_another_model_with_the_same_tensors_is_refused(tmp_path: Path) -> None:
    """A BERT that fills in words sees both sides; loaded as one that writes it would see one."""
    repo = Repo(tmp_path, "BertForMaskedLM", _SIZES)

    for asked in (False, True):
        said = repo.refusal("text-generation", asked=asked)
        assert "BertForMaskedLM" in said
        assert "BertLMHeadModel" in said


def test_a_tied_head_may_be_added_to_a_checkpoint_of_the_bare_model(tmp_path: Path) -> None:
    repo = Repo(tmp_path, "GPT2Model", _GPT2)

    assert repo.account("text-generation").complete


def test_a_head_that_the_checkpoint_does_not_have_is_refused(tmp_path: Path) -> None:
    repo = Repo(tmp_path, "BertModel", _SIZES)

    with pytest.raises(ModelInvalid, match=r"cls\.predictions"):
        repo.loaded("fill-mask")


_EXCUSED: Mapping[str, tuple[str, Mapping[str, Any], str, dict[str, torch.Tensor], str]] = {
    "positions counted": (
        "BertModel", _SIZES, "feature-extraction", {"embeddings.position_ids": torch.arange(24)[None]}, "computes it"
    ),
    "frequencies": (
        "LlamaForCausalLM", _SIZES, "text-generation",
        {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.randn(4)}, "computes it",
    ),
    "causal mask": (
        "GPT2LMHeadModel", _GPT2, "text-generation",
        {
            "transformer.h.0.attn.bias": torch.ones(1, 1, 24, 24).tril(),
            "transformer.h.0.attn.masked_bias": torch.tensor(-1e4),
        },
        "computes it",
    ),
    "next sentence": (
        "BertForMaskedLM", _SIZES, "fill-mask",
        {"cls.seq_relationship.weight": torch.randn(2, 16), "cls.seq_relationship.bias": torch.randn(2)},
        "pre-training",
    ),
    "pooler": (
        "RobertaForMaskedLM", _SIZES, "fill-mask",
        {"roberta.pooler.dense.weight": torch.randn(16, 16), "roberta.pooler.dense.bias": torch.randn(16)},
        "no pooled output",
    ),
    "quantizer": (
        "Wav2Vec2ForCTC", _WAV2VEC2, "automatic-speech-recognition",
        {"quantizer.codevectors": torch.randn(1, 8, 4), "project_q.weight": torch.randn(8, 8)}, "pre-training",
    ),
    "decoder of the whole": (
        "T5EncoderModel", _T5, "feature-extraction",
        {"decoder.block.0.layer.0.SelfAttention.q.weight": torch.randn(16, 16)}, "transformers' list",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", _EXCUSED)
def test_what_no_output_needs_may_be_left_out_and_is_said(case: str, tmp_path: Path) -> None:
    name, sizes, task, extra, reason = _EXCUSED[case]
    repo = Repo(tmp_path, name, sizes).tensors(lambda found: {**found, **extra})

    found = repo.account(task)

    assert found.complete, (found.unexplained, found.fault)
    (left_out,) = found.left_out
    assert set(left_out.tensors) == set(extra)
    assert reason in left_out.reason


def test_a_trained_bias_is_no_mask_whatever_it_is_called(tmp_path: Path) -> None:
    repo = Repo(tmp_path, "LlamaForCausalLM", _SIZES)
    repo.with_tensors("model.layers.0.self_attn.attention.bias", shape=(16,))

    assert "attention.bias" in repo.refusal("text-generation")


def test_a_tensor_that_is_saved_twice_may_be_left_out_once(tmp_path: Path) -> None:
    repo = Repo(tmp_path, "BertModel", _SIZES)
    table = "embeddings.word_embeddings.weight"
    repo.tensors(lambda found: {**found, "head.decoder.weight": found[table]})

    (left_out,) = repo.account("feature-extraction").left_out

    assert left_out.tensors == ("head.decoder.weight",)
    assert "saved twice" in left_out.reason


def test_a_head_that_was_trained_on_is_not_taken_for_a_tied_one(tmp_path: Path) -> None:
    repo = Repo(tmp_path, "BertModel", _SIZES)
    table = "embeddings.word_embeddings.weight"
    repo.tensors(lambda found: {**found, "head.decoder.weight": found[table] + 1e-3})

    assert "head.decoder.weight" in repo.refusal("feature-extraction")


def test_a_source_that_names_no_class_may_be_asked_for_its_hidden_states(tmp_path: Path) -> None:
    repo = Repo(tmp_path, "BertForMaskedLM", _SIZES).says(None)

    assert repo.account("feature-extraction", asked=True).complete
    assert "cls.predictions" in repo.refusal("feature-extraction")


def test_experts_that_are_merged_while_they_are_loaded_are_all_accounted_for(tmp_path: Path) -> None:
    sizes = {**_SIZES, "num_key_value_heads": 1, "num_local_experts": 2, "num_experts_per_tok": 1}
    repo = Repo(tmp_path, "MixtralForCausalLM", sizes)

    found = repo.account("text-generation")

    assert found.complete
    assert found.placed.keys() == checkpoint.read(repo.folder).keys()
    assert any("experts" in name for name in found.converted)
