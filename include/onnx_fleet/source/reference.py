"""The reference: PyTorch eager outputs to compare with, from the source's own files. Imports torch when called.

Nothing here has seen the trace: the plain transformers model is called, with every input that it takes, the attention
mask above all. A graph that lost one of them is then different, and not equal to a reference that lost it too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.errors import ValidationFailed, WorkerOutOfResources
from onnx_fleet.graphs import text_inputs
from onnx_fleet.graphs.further_inputs import FurtherInput
from onnx_fleet.graphs.text_inputs import ModelLimits
from onnx_fleet.source import families, float64_modules

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    from torch.nn import Module
    from transformers import PreTrainedModel

_FLOAT64_BYTES = 2 << 30
"""The largest model, in bytes of its float64 copy: an explanation must not exhaust the memory of a proof."""

TOKEN_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """The parameters that each output depends on, by the record that PyTorch keeps for gradients."""

    graphs: Mapping[str, frozenset[str]]
    """The names of the parameters behind each output of the graphs."""
    own: Mapping[str, frozenset[str]]
    """The names of the parameters behind each output of the source's own forward."""
    names: Mapping[str, frozenset[str]]
    """All names of each parameter, by each of its names: tied ones have several."""

    def unloaded(self, loaded: Iterable[str], made: Iterable[str]) -> frozenset[str]:
        """Return the parameters that nothing was loaded into.

        Args:
            loaded: the names that a tensor of the checkpoint was loaded into.
            made: parts of the names of parameters that transformers makes of other tensors.
        """
        there, parts = set(loaded), tuple(made)
        return frozenset(
            name
            for name, same in self.names.items()
            if not (same & there) and not any(part in other for part in parts for other in same)
        )


class Reference:
    """The outputs of PyTorch eager on one model. Make it with load.

    Feeds and outputs are arrays by the contract's names, with the axes and types of the graphs' inputs and outputs:
    ``input_ids`` int64 [batch_size, sequence_length], ``last_hidden_state`` float32 [batch_size, sequence_length,
    hidden_size].
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        whole: Module,
        graph_modules: Mapping[str, Module],
        further: tuple[FurtherInput, ...] = (),
        device: str = "cpu",
    ) -> None:
        self.model = model
        """The plain transformers model."""
        self.device = device
        self._whole = whole.to(device)
        self._graph_modules = graph_modules
        self._further = further
        self.parameters = frozenset(inspect.signature(model.forward).parameters)
        """The names of the inputs that the source model takes."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """The inputs of a model of text, all of which its graphs must take; masks of images and sound are left out."""
        tokens = (name for name in TOKEN_INPUTS if {name, "input_ids"} <= self.parameters)
        return (*tokens, *(each.name for each in self._further))

    @property
    def answer(self) -> str | None:
        """The output of a sentence-transformers source's own modules; None of any other source."""
        from onnx_fleet.source.families import chain  # imports torch

        modules = chain.of(self.model)
        return modules.answer if modules else None

    @cached_property
    def limits(self) -> ModelLimits:
        """The limits of a model that takes tokens."""
        from onnx_fleet.source import model_limits

        return model_limits.of(self.model, further=self._further)

    @cached_property
    def weights(self) -> dict[str, np.ndarray]:
        """The model's tensors of types that numpy has, by their names, as loaded; nothing is copied on a CPU."""
        import numpy as np

        tensors = self.model.state_dict().items()
        known = {name: tensor for name, tensor in tensors if str(tensor.dtype).removeprefix("torch.") in np.sctypeDict}
        return {name: tensor.detach().cpu().numpy() for name, tensor in known.items()}

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the whole model's outputs by name. Feeds that it does not take are left out.

        Raises:
            ValidationFailed: PyTorch itself cannot run them.
        """
        return self._run(self._whole, self._taken(feeds))

    def in_float64(self, feeds: Mapping[str, np.ndarray], *, role: str | None = None) -> dict[str, np.ndarray]:
        """Return the outputs in float64, to see which side is off; empty where the model is too large, or fails.

        Some models compute parts of themselves in float32 whatever their weights are: it is the best word there is,
        not the last one.

        Args:
            role: the graph whose work alone is wanted; None for the whole model.
        """
        if sum(tensor.nbytes for tensor in self._whole.parameters()) > _FLOAT64_BYTES // 2:
            return {}
        module = self._whole if role is None else self._graph_modules[role]
        given = self._taken(feeds) if role is None else dict(feeds)
        wide = {name: array.astype("float64") if array.dtype.kind == "f" else array for name, array in given.items()}
        fails = ValidationFailed, TypeError, NotImplementedError
        with suppress(*fails), float64_modules.layer_by_layer(module) as in_float64:
            outputs = self._run(in_float64, wide)
            if not any(array.dtype == "float32" for array in outputs.values()):
                return outputs  # else it used a weight without calling the module that has it
        with suppress(*fails), float64_modules.copied(module) as in_float64:
            return self._run(in_float64, wide)
        return {}

    def _taken(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the feeds that the model takes.

        Token types that are all one are left out, as tokenizers do: GPT-2 would add a word's vector for them.
        """
        typed = "input_ids" not in self.parameters or self.limits.token_types > 1
        return {
            name: array
            for name, array in feeds.items()
            if name in self.parameters and (typed or name != "token_type_ids")
        }

    def reach(self, feeds: Mapping[str, np.ndarray]) -> Reach:
        """Return the parameters that the outputs depend on. Nothing is differentiated: a forward pass's record is read.

        Raises:
            ValidationFailed: PyTorch keeps no such record of this model.
        """
        import torch

        given = self._tensors(self._taken(feeds))
        names: dict[int, set[str]] = {}
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), set()).add(name)
        with _explained(_on(given)), torch.enable_grad():
            graphs = {name: _behind(output) for name, output in self._whole(**given).items()}
            own = {name: _behind(output) for name, output in self.model(**given, return_dict=True).items()}
        known = {number: sorted(found)[0] for number, found in names.items()}

        def said(found: set[int]) -> frozenset[str]:
            return frozenset(known[number] for number in found if number in known)

        return Reach(
            graphs={name: said(found) for name, found in graphs.items()},
            own={name: said(found) for name, found in own.items()},
            names={known[number]: frozenset(found) for number, found in names.items()},
        )

    def with_noise(self, names: Iterable[str], feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs of the same model with some of its parameters far from what they are.

        Args:
            names: the names of these parameters.
        """
        import torch

        wanted = set(names)
        chosen = {name: parameter for name, parameter in self.model.named_parameters() if name in wanted}
        before = {name: parameter.detach().clone() for name, parameter in chosen.items()}
        generator = torch.Generator().manual_seed(0)
        try:
            with torch.no_grad():
                for parameter in chosen.values():
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.add_(noise.to(parameter) * (1 + parameter.abs().max()))
            return self(feeds)
        finally:
            with torch.no_grad():
                for name, parameter in chosen.items():
                    parameter.copy_(before[name])

    def graph(self, role: str, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one graph's work alone in PyTorch eager, its inputs and outputs by the contract's names, to time it.

        Raises:
            ValidationFailed: PyTorch itself cannot run them.
        """
        return self._run(self._graph_modules[role], feeds)

    def bind(self, role: str, feeds: Mapping[str, np.ndarray]) -> Callable[[], None]:
        """Return a run of one graph's work, with inputs and outputs on the device, that ends when they are complete."""
        import torch

        module, tensors = self._graph_modules[role], self._tensors(feeds)
        on_gpu = torch.device(self.device).type == "cuda"

        def call() -> None:
            with _explained(_on(tensors)), torch.inference_mode():
                module(**tensors)
                if on_gpu:
                    torch.cuda.synchronize(self.device)

        return call

    def generate(self, feeds: Mapping[str, np.ndarray], **settings: Any) -> np.ndarray:
        """Run transformers' own generate with these settings alone: int64 [rows, tokens], prompt or start token first.

        The source's generation_config would add its own (forced tokens, penalties), and Whisper's class its own loop.

        Args:
            settings: the settings of transformers' GenerationConfig.
        """
        import torch
        from transformers import GenerationConfig, GenerationMixin

        model: Any = self.model
        own = model.generation_config
        model.generation_config = GenerationConfig(do_sample=False, **settings)  # type: ignore[no-untyped-call]
        try:
            with torch.inference_mode():
                given: Any = GenerationMixin.generate(model, **self._tensors(feeds))
        finally:
            model.generation_config = own
        tokens: np.ndarray = given.cpu().numpy()
        return tokens

    def _run(self, module: Module, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        import torch

        tensors = self._tensors(feeds)
        with _explained(_on(tensors)), torch.inference_mode():
            outputs = module(**tensors)
        return {name: output.cpu().numpy() for name, output in outputs.items()}

    def _tensors(self, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        import numpy as np
        import torch

        # A model may take a view of what it is given: XGLM does of its positions.
        return {name: torch.from_numpy(np.ascontiguousarray(array)).to(self.device) for name, array in feeds.items()}


def load(item: WorkItem, *, source_dir: Path, device: str = "cpu") -> Reference:
    """Load the source model in float32, in evaluation mode, with eager attention, and its task's and recipe's outputs.

    Remote code and pickle weights are loaded only for the commit that the entry names.

    Args:
        source_dir: the files of the source at the item's commit.
        device: torch's name of the device.
    Raises:
        ModelInvalid: the weights cannot be read, or lack what the task needs.
        ExportUnsupported: transformers has no such model for the task.
    """
    if device != "cpu":
        _forbid_tf32()
    return of(item, families.family(item.family).load(item, source_dir, None), device=device)


def of(item: WorkItem, model: PreTrainedModel, *, device: str = "cpu") -> Reference:
    """Return the reference of a model that is loaded already, with the outputs of the item's task and recipe."""
    family = families.family(item.family)
    whole = family.whole(item, model)
    modules = {spec.role: spec.module for spec in family.graphs(item, model)}
    with _explained(f"PyTorch cannot put the model on {device}"):
        return Reference(model, whole=whole, graph_modules=modules, further=family.further(model), device=device)


class Load(Protocol):
    """The type of a function that loads a reference."""

    def __call__(self, item: WorkItem, *, source_dir: Path) -> Reference:
        """Load the source's model from its files."""


def _behind(output: Any) -> set[int]:
    """Return the identities of the parameters that an output, or one of several in it, depends on."""
    import torch

    if isinstance(output, Mapping):
        return set[int]().union(*map(_behind, output.values()))
    if isinstance(output, tuple | list):
        return set[int]().union(*map(_behind, output))
    if not torch.is_tensor(output) or output.grad_fn is None:
        return set()
    found: set[int] = set()
    seen, waiting = {output.grad_fn}, [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        for before, _ in node.next_functions:
            if before is not None and before not in seen:
                seen.add(before)
                waiting.append(before)
    return found


def _forbid_tf32() -> None:
    """Turn TF32 off, as it is off in onnxruntime here: one side alone in TF32 is another computation, and faster."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


@contextmanager
def _explained(what: str) -> Iterator[None]:
    import torch

    try:
        yield
    except torch.OutOfMemoryError as err:
        raise WorkerOutOfResources(f"{what}, for want of memory: {err}") from err
    except (RuntimeError, IndexError, ValueError) as err:
        raise ValidationFailed(f"{what}: {err}") from err


def _on(tensors: Mapping[str, Any]) -> str:
    shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
    return f"PyTorch itself does not run on {shapes}"


def threads(count: int) -> AbstractContextManager[None]:
    """Set PyTorch's intra-op threads for the length of a with block: they are the process's, not a model's."""
    return _threads(count)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def longest(stage_dir: Path, reference: Reference, *, bound: int = text_inputs.LENGTH_BOUND) -> int | None:
    """Return the most tokens that may be fed; None for a model that takes none."""
    takes_tokens = "input_ids" in reference.parameters
    return text_inputs.token_space(stage_dir, reference.limits, bound=bound).max_length if takes_tokens else None
