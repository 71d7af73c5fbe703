"""What graphs are compared with is the plain transformers model, called with every input that it takes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from fixtures.exported import Exported
from fixtures.items import work_item
from onnx_fleet.errors import ModelInvalid, ValidationFailed
from onnx_fleet.graphs import text_inputs
from onnx_fleet.graphs.text_inputs import Batch
from onnx_fleet.source import reference
from onnx_fleet.source.reference import Reference


@pytest.fixture(scope="session")
def roberta(embeddings: Exported) -> Reference:
    return reference.load(embeddings.stage.item, source_dir=embeddings.source_dir)


@pytest.fixture(scope="session")
def bert(questions: Exported) -> Reference:
    return reference.load(questions.stage.item, source_dir=questions.source_dir)


@pytest.fixture
def padded(embeddings: Exported, roberta: Reference) -> Batch:
    """Rows of 9 and 4 tokens, padded on the right."""
    space = text_inputs.token_space(embeddings.stage_dir, roberta.limits)
    rows = [text_inputs.random_batch(space, batch_size=1, length=length, seed=0) for length in (9, 4)]
    return text_inputs.pad(rows, side="right", space=space)


def test_outputs_are_transformers_own_and_the_recipes(embeddings: Exported, roberta: Reference, padded: Batch) -> None:
    """The pooled output is computed again here, from its definition."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(embeddings.source_dir).eval()
    with torch.no_grad():
        hidden = model(
            input_ids=torch.from_numpy(padded.input_ids), attention_mask=torch.from_numpy(padded.attention_mask)
        ).last_hidden_state.numpy()

    outputs = roberta(padded.feeds)

    assert outputs.keys() == {"last_hidden_state", "sentence_embedding"}
    np.testing.assert_allclose(outputs["last_hidden_state"][padded.real], hidden[padded.real], atol=1e-5)
    mean_of_four = hidden[1, :4].mean(axis=0)
    np.testing.assert_allclose(outputs["sentence_embedding"][1], mean_of_four, atol=1e-5)


def test_the_mask_counts(roberta: Reference, padded: Batch) -> None:
    unmasked = {**padded.feeds, "attention_mask": np.ones_like(padded.attention_mask)}

    difference = np.abs(roberta(padded.feeds)["sentence_embedding"] - roberta(unmasked)["sentence_embedding"])

    assert difference[0].max() < 1e-5
    assert difference[1].max() > 0.1


def test_the_same_input_gives_the_same_bits(roberta: Reference, padded: Batch) -> None:
    first, second = roberta(padded.feeds), roberta(padded.feeds)

    assert first
    assert {name for name in first if np.array_equal(first[name], second[name])} == first.keys() == second.keys()


def test_limits_are_the_models_own(bert: Reference, roberta: Reference) -> None:
    """RoBERTa keeps the first rows of its position table, up to the padding id's, for padding."""
    assert (bert.limits.max_length, bert.limits.token_types, bert.limits.pad_token_id) == (66, 2, 0)
    assert (roberta.limits.max_length, roberta.limits.token_types, roberta.limits.pad_token_id) == (64, 1, 1)


def test_inputs_are_those_that_the_model_takes(bert: Reference) -> None:
    assert bert.input_names == ("input_ids", "attention_mask", "token_type_ids")


def test_a_sequence_that_pytorch_refuses_is_a_clear_error(bert: Reference) -> None:
    too_long = {"input_ids": np.ones((1, 67), dtype=np.int64), "attention_mask": np.ones((1, 67), dtype=np.int64)}

    with pytest.raises(ValidationFailed, match=r"PyTorch itself does not run on input_ids \[1, 67\]"):
        bert(too_long)


def test_pickle_weights_are_not_read_unless_the_entry_says_so(questions: Exported, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    source = Path(shutil.copytree(questions.source_dir, tmp_path / "acme" / "pickled"))
    torch.save(load_file(source / "model.safetensors"), source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()

    with pytest.raises(ModelInvalid, match="weights cannot be loaded"):
        reference.load(work_item(source, task="question-answering"), source_dir=source)


def test_threads_are_given_back() -> None:
    import torch

    before = torch.get_num_threads()

    with reference.threads(before + 1):
        assert torch.get_num_threads() == before + 1

    assert torch.get_num_threads() == before
