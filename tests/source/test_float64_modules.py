"""Modules in float64: one layer's weights at a time gives what a whole copy gives, and leaves the module as it was."""

from __future__ import annotations

import pytest
import torch

from onnx_fleet.source import float64_modules
from zoo import ARCHITECTURES
from zoo.feeds import feeds
from zoo.strength import outputs

NAMES = (
    "BertForSequenceClassification",
    "AlbertForMaskedLM",
    "GPT2LMHeadModel",
    "LlamaForCausalLM",
    "T5ForConditionalGeneration",
    "BartForConditionalGeneration",
    "ViTForImageClassification",
    "Wav2Vec2ForCTC",
    "CLIPModel",
)


def wide(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in given.items()}


@pytest.mark.parametrize("name", NAMES)
def test_layer_by_layer_is_what_a_whole_copy_is_to_the_bit(name: str) -> None:
    (architecture,) = (row for row in ARCHITECTURES if row.name == name)
    model = architecture.build()
    given = wide(feeds(architecture, model))
    before = {key: (tensor, tensor.clone()) for key, tensor in model.state_dict(keep_vars=True).items()}

    with torch.inference_mode():
        with float64_modules.copied(model) as in_float64:
            expected = outputs(in_float64, given)
        with float64_modules.layer_by_layer(model) as in_float64:
            found = outputs(in_float64, given)

    assert {tensor.dtype for tensor in expected.values() if tensor.is_floating_point()} == {torch.float64}
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    after = model.state_dict(keep_vars=True)
    assert all(after[key] is tensor and torch.equal(tensor, was) for key, (tensor, was) in before.items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


class Layer(torch.nn.Module):
    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)
        self.seen = stack.seen
        self.stack = [stack]  # in a list, or it would be a part of this module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = [parameter for parameter in self.stack[0].parameters() if parameter.dtype == torch.float64]
        self.seen.append(sum(weight.numel() for weight in weights))
        return self.linear(x)


class Stack(torch.nn.Module):
    """Counts the weights in float64 whenever a layer runs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []
        self.embedding = torch.nn.Embedding(3, 8)
        self.layers = torch.nn.ModuleList(Layer(self) for _ in range(5))

    def forward(self, ids: torch.Tensor, *, peeks: bool = False) -> torch.Tensor:
        x = self.embedding(ids)
        for layer in self.layers:
            x = torch.nn.functional.linear(x, layer.linear.weight) if peeks else layer(x)
        return x


def test_one_layer_has_its_weights_in_float64_at_a_time() -> None:
    stack = Stack()
    with float64_modules.layer_by_layer(stack) as in_float64, torch.inference_mode():
        assert in_float64(torch.tensor([1, 2])).dtype == torch.float64

    assert stack.seen == [8 * 8 + 8] * 5
    assert {parameter.dtype for parameter in stack.parameters()} == {torch.float32}


def test_weights_that_are_used_without_their_layer_are_an_error_and_no_other_values() -> None:
    """The reference then takes a whole copy."""
    stack = Stack()
    with float64_modules.layer_by_layer(stack), pytest.raises(RuntimeError, match="same dtype"):
        stack(torch.tensor([1, 2]), peeks=True)
    with float64_modules.copied(stack) as in_float64:
        assert in_float64(torch.tensor([1, 2]), peeks=True).dtype == torch.float64
