"""The zoo: every row is a real model whose outputs would tell a broken graph."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from onnx_fleet.processes.isolation import Limits
from zoo import ARCHITECTURES, Architecture, page
from zoo.repo import save
from zoo.strength import weaknesses
from zoo.survey import survey, survey_aside
from zoo.tiny import every_row

_SAVED = tuple(
    next(row for row in ARCHITECTURES if row.family == family)
    for family in dict.fromkeys(row.family for row in ARCHITECTURES)
)


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # WavLM's own
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda row: row.name)
def test_its_outputs_would_tell_a_broken_graph(architecture: Architecture) -> None:
    assert weaknesses(architecture, architecture.build()) == []


def test_a_model_with_default_weights_is_told_to_be_weak() -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    row = next(row for row in ARCHITECTURES if row.name == "LlamaForCausalLM")
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**row.config)).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(0.01)

    assert [fault.split(" size")[0] for fault in weaknesses(row, model)] == ["logits:"]


def test_a_model_that_loses_the_mask_is_told_to_be_weak() -> None:
    row = next(row for row in ARCHITECTURES if row.name == "BertModel")
    model = row.build()
    forward = model.forward
    model.forward = lambda input_ids=None, attention_mask=None, return_dict=True: forward(input_ids=input_ids)

    assert weaknesses(row, model) == ["attention_mask without_effect: outputs move by 0 of their size"]


def test_no_row_stands_twice() -> None:
    assert [name for name, count in Counter(row.name for row in ARCHITECTURES).items() if count > 1] == []


def test_every_row_of_the_page_is_of_the_zoo() -> None:
    assert page.lines().keys() <= {row.name for row in every_row()}


def test_the_page_says_of_every_model_type_what_its_best_row_is() -> None:
    found = page.of_types(page.rows())
    right = sum(status == "right" for status in found.values())

    assert f"**{right} of " in page.PAGE.read_text()


def test_the_readme_promises_the_model_types_that_are_right_and_no_others() -> None:
    promised = re.findall(r"(\d+ of \d+ model types)", (page.PAGE.parents[1] / "README.md").read_text())

    assert promised
    assert all(f"**{each} are right.**" in page.PAGE.read_text() for each in promised)


def test_a_row_that_takes_too_long_is_ended_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where a row's own process finds the zoo
    row = next(row for row in ARCHITECTURES if row.name == "BertModel")

    found = survey_aside(row, limits=Limits(timeout_s=0.2))

    assert (found.status, found.note) == ("unknown", "it took longer than 0.2 s")


def test_a_row_whose_tiny_model_cannot_be_made_is_unknown(tmp_path: Path) -> None:
    row = Architecture(name="BertModel", family="encoder", task="feature-extraction", config={"hidden_size": 33})

    found = survey(row, tmp_path)

    assert found.status == "unknown"
    assert "no tiny model of it could be made: ValueError: The hidden size (33)" in found.note


@pytest.mark.parametrize("architecture", _SAVED, ids=lambda row: row.family)
def test_a_saved_row_loads_again_with_the_same_outputs(architecture: Architecture, tmp_path: Path) -> None:
    import torch
    import transformers

    from zoo.feeds import feeds
    from zoo.strength import outputs

    model = architecture.build()
    save(architecture, tmp_path)
    again = getattr(transformers, architecture.name).from_pretrained(tmp_path, attn_implementation="eager").eval()
    given = feeds(architecture, model)

    expected = outputs(model, given)
    assert expected
    torch.testing.assert_close(outputs(again, given), expected, rtol=0, atol=0)
