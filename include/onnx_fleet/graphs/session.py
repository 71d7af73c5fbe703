"""onnxruntime: sessions with fixed providers and threads, and proof of where their nodes ran.

A session either runs where it was asked to run or is an error: onnxruntime's own habit is to fall back to the CPU with
a warning (onnxruntime#23372). onnxruntime and numpy are imported inside; torch never is.
"""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from onnx_fleet.entities.graph_info import TensorSpec
from onnx_fleet.entities.provider import CPU, CUDA, EXECUTION_PROVIDERS
from onnx_fleet.errors import GpuUnavailable, OnnxFleetError, ValidationFailed, WorkerOutOfResources
from onnx_fleet.graphs.placement import NodePlacement, read_placement, require_placed
from onnx_fleet.processes import hardware
from onnx_fleet.processes.gpu import GpuOptions

if TYPE_CHECKING:
    import numpy as np

Arrays = Mapping[str, "np.ndarray"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionProvider:
    """Where a catalogue entry may ask to be validated and measured."""

    name: str
    execution_provider: str
    """onnxruntime's own name of it."""
    options: Mapping[str, str]
    memory: str
    """Where its tensors lie, as onnxruntime calls it."""
    remedy: str
    """What to do when onnxruntime does not offer it, for people."""


PROVIDERS: Mapping[str, ExecutionProvider] = {
    provider.name: provider
    for provider in (
        ExecutionProvider(
            name=CPU,
            execution_provider=EXECUTION_PROVIDERS[CPU],
            options={},
            memory="cpu",
            remedy="reinstall onnxruntime: every build of it has this provider",
        ),
        ExecutionProvider(
            name=CUDA,
            execution_provider=EXECUTION_PROVIDERS[CUDA],
            # TF32 keeps 10 bits of a float32's mantissa: its products differ from PyTorch's by 1e-3, more than any
            # tolerance that still catches a wrong graph.
            options={"use_tf32": "0"},
            memory="cuda",
            remedy="install requirements-gpu.txt (onnxruntime-gpu) on a worker with an NVIDIA driver and its CUDA and "
            "cuDNN libraries, or take 'cuda' out of the entry's providers",
        ),
        # No Azure endpoint is ever called: it takes no node that does not name one. It is the second provider that the
        # plain CPU wheel offers, so the judgement of where nodes ran is tested live with it.
        ExecutionProvider(
            name="azure",
            execution_provider="AzureExecutionProvider",
            options={},
            memory="cpu",
            remedy="install an onnxruntime wheel that has it",
        ),
    )
}

_NUMPY_NAMES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bfloat16)": "bfloat16",
}
_FIRST_GPU = GpuOptions()
_NO_MEMORY = re.compile(r"out of memory|failed to allocate memory|bad_alloc|\bOOM\b|smaller than requested bytes", re.I)
_NO_DEVICE = re.compile(r"invalid device ordinal|no CUDA-capable device|CUDA driver version|CUDA_ERROR|device_id", re.I)


class Session:
    """One graph, loaded on one provider. Make it with open_session."""

    def __init__(
        self, native: Any, *, graph: Path, provider: ExecutionProvider, threads: int, device_id: int, load_time_s: float
    ) -> None:
        self._native = native
        self._device_id = device_id
        self.graph = graph
        self.provider = provider
        self.threads = threads
        self.load_time_s = load_time_s
        self.inputs = tuple(_spec(value) for value in native.get_inputs())
        self.outputs = tuple(_spec(value) for value in native.get_outputs())
        self.placement: NodePlacement | None = None
        """Where nodes ran, once prove_placement was called."""
        self.on_run: Callable[[Arrays], None] | None = None
        """Told of what every later run is fed, or would be."""

    def __repr__(self) -> str:
        return f"Session({self.graph.name}, {self.provider.name}, threads={self.threads})"

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        """Run the graph, and return every output by name, in its shape and type.

        Args:
            feeds: arrays by the names of inputs, in the graph's shapes and types. What it does not take is left out.
        Raises:
            ValidationFailed: onnxruntime refuses the feeds, or a node fails.
            WorkerOutOfResources: there is not enough memory for them.
        """
        wanted = self.note(feeds)
        with self._explained(wanted):
            values = self._native.run(None, wanted)
        return {spec.name: value for spec, value in zip(self.outputs, values, strict=True)}

    def note(self, feeds: Arrays) -> Arrays:
        """Return what the graph takes of feeds, and have on_run told of it as by a run; nothing is computed."""
        wanted = self._wanted(feeds)
        if self.on_run:
            self.on_run(wanted)
        return wanted

    def bind(self, feeds: Arrays) -> Callable[[], None]:
        """Put feeds where the provider computes, and return a call that runs on them and leaves its outputs there.

        It is what a server does that keeps a cache on the GPU: nothing is copied between host and device in the call,
        which returns when the outputs are complete. Both raise as run does.

        Args:
            feeds: arrays as run takes them.
        """
        from onnxruntime import OrtValue  # type: ignore[import-untyped]

        wanted, memory = self._wanted(feeds), (self.provider.memory, self._device_id)
        binding = self._native.io_binding()
        with self._explained(wanted):
            for name, array in wanted.items():
                binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(array, *memory))
            for spec in self.outputs:
                binding.bind_output(spec.name, *memory)

        def call() -> None:
            with self._explained(wanted):
                self._native.run_with_iobinding(binding)
                binding.synchronize_outputs()

        return call

    def call_on(self, feeds: Arrays, *, io_binding: bool) -> Callable[[], object]:
        """Return a call that runs on these feeds: where the provider computes, or copied in and out each time."""
        return self.bind(feeds) if io_binding else partial(self.run, feeds)

    def prove_placement(self, feeds: Arrays) -> NodePlacement:
        """Run once under the profiler, and say where the nodes were executed; later runs are not profiled.

        Needs a session opened with ``profile_dir``, and not run before.

        Args:
            feeds: a short input, one row of a few tokens: the judgement goes by how large the tensors are.
        Raises:
            ValidationFailed: as run does.
        """
        try:
            self.run(feeds)
        finally:
            profile = Path(self._native.end_profiling())
        self.placement = read_placement(profile, execution_provider=self.provider.execution_provider)
        return self.placement

    def _wanted(self, feeds: Arrays) -> dict[str, np.ndarray]:
        return {spec.name: feeds[spec.name] for spec in self.inputs if spec.name in feeds}

    @contextmanager
    def _explained(self, feeds: Arrays) -> Iterator[None]:
        try:
            yield
        except _native_errors() as err:
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in sorted(feeds.items()))
            raise _translated(err, f"{self.graph.name} does not run on {shapes}", self.provider) from err


def open_session(
    graph: Path,
    *,
    provider: str = CPU,
    threads: int | None = None,
    libraries: Sequence[str] = (),
    profile_dir: Path | None = None,
    gpu: GpuOptions = _FIRST_GPU,
) -> Session:
    """Load a graph on one provider, or fail.

    Args:
        threads: intra-op threads; None takes the cores that the process may use. Inter-op is always 1.
        libraries: packages whose custom operators the graph uses, as GraphInfo names them.
        profile_dir: where onnxruntime writes its profile; None profiles nothing.
        gpu: which GPU, for a provider that computes on one.
    Raises:
        GpuUnavailable: onnxruntime does not offer the provider, cannot start it, or drops it on the way.
        ValidationFailed: onnxruntime cannot load the graph.
        WorkerOutOfResources: there is not enough memory for its weights.
    """
    import onnxruntime

    wanted = require_provider(provider)
    count = threads or hardware.usable_cores()
    started = time.perf_counter()
    try:
        native = onnxruntime.InferenceSession(
            str(graph),
            _options(onnxruntime, threads=count, libraries=libraries, profile_dir=profile_dir),
            providers=_chain(wanted, gpu),
            enable_fallback=0,
        )
    except _native_errors() as err:
        what = f"{graph.name} does not load in onnxruntime {onnxruntime.__version__}"
        raise _translated(err, what, wanted) from err
    load_time_s = time.perf_counter() - started
    if wanted.execution_provider not in native.get_providers():
        raise GpuUnavailable(
            f"{graph.name}: onnxruntime did not use {wanted.execution_provider} and made a session on "
            f"{', '.join(native.get_providers())}; {wanted.remedy}"
        )
    device_id = gpu.device_id if wanted.memory == "cuda" else 0
    return Session(native, graph=graph, provider=wanted, threads=count, device_id=device_id, load_time_s=load_time_s)


def open_placed(
    graph: Path, *, feeds: Arrays, provider: str, threads: int, libraries: Sequence[str], gpu: GpuOptions
) -> Session:
    """Load a graph as open_session does, on an accelerator only if every node that computes was seen to run there.

    Args:
        feeds: a short input, as Session.prove_placement takes it.
    Raises:
        GpuUnavailable: beside what open_session says, some nodes ran elsewhere.
    """
    if provider == CPU:
        return open_session(graph, threads=threads, libraries=libraries)
    with TemporaryDirectory(prefix="onnx-fleet-") as folder:
        session = open_session(
            graph, provider=provider, threads=threads, libraries=libraries, profile_dir=Path(folder), gpu=gpu
        )
        placement = session.prove_placement(feeds)
    require_placed(placement, graph=graph.name)
    return session


def require_provider(name: str) -> ExecutionProvider:
    """Return the provider of that name, which the onnxruntime here offers.

    Raises:
        GpuUnavailable: there is none of that name, or it is not offered.
    """
    import onnxruntime

    if name not in PROVIDERS:
        raise GpuUnavailable(f"unknown provider {name!r}; write one of {', '.join(PROVIDERS)}")
    provider, offered = PROVIDERS[name], onnxruntime.get_available_providers()
    if provider.execution_provider not in offered:
        raise GpuUnavailable(
            f"{provider.execution_provider} was asked for, and the installed onnxruntime {onnxruntime.__version__} "
            f"offers {', '.join(offered)}; {provider.remedy}"
        )
    if provider.memory == "cuda":
        # Its libraries lie in Python packages, where the system's loader does not look unless torch was imported.
        onnxruntime.preload_dlls()
    return provider


def _chain(provider: ExecutionProvider, gpu: GpuOptions) -> list[tuple[str, dict[str, str]]]:
    """onnxruntime takes no session without the CPU provider behind; read_placement says what it did there."""
    own = gpu.provider_options() if provider.memory == "cuda" else {}
    chain = [(provider.execution_provider, {**provider.options, **own})]
    if provider.name != CPU:
        chain.append((EXECUTION_PROVIDERS[CPU], {}))
    return chain


def _options(onnxruntime: Any, *, threads: int, libraries: Sequence[str], profile_dir: Path | None) -> Any:
    options = onnxruntime.SessionOptions()
    for package in libraries:
        options.register_custom_ops_library(_library(package))
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # fatal: its errors are raised too, and its warnings are not for users
    if profile_dir is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_dir / "onnxruntime")
    return options


def _library(package: str) -> str:
    """The shared library that a package of custom operators brings.

    Raises:
        ValidationFailed: the package is not installed, or brings none.
    """
    try:
        path: str = importlib.import_module(package).get_library_path()
    except (ImportError, AttributeError) as err:
        raise ValidationFailed(
            f"the graph uses operators of {package}, whose library cannot be loaded here ({err}); "
            f"run: pip install {package}"
        ) from err
    return path


def _native_errors() -> tuple[type[Exception], ...]:
    """onnxruntime's own classes, which share no root but Exception, and Python's, which it raises for wrong feeds."""
    from onnxruntime.capi import onnxruntime_pybind11_state as native  # type: ignore[import-untyped]

    own = (value for value in vars(native).values() if isinstance(value, type) and issubclass(value, Exception))
    return (*own, RuntimeError, ValueError)


def _translated(err: Exception, what: str, provider: ExecutionProvider) -> OnnxFleetError:
    """onnxruntime's own classes tell neither memory nor a device from a graph: its words do."""
    said = _first_line(err)
    if _NO_MEMORY.search(str(err)):
        return WorkerOutOfResources(
            f"{what}: {said}; free memory where it was to run ({provider.name}), raise its limit, or make batches and"
            " lengths smaller"
        )
    if provider.memory == "cuda" and _NO_DEVICE.search(str(err)):
        return GpuUnavailable(f"{what}: {said}; {provider.remedy}")
    return ValidationFailed(f"{what}: {said}")


def _first_line(err: Exception) -> str:
    return str(err).strip().splitlines()[0][:400] if str(err).strip() else type(err).__name__


def _spec(value: Any) -> TensorSpec:
    dtype = _NUMPY_NAMES.get(value.type, re.sub(r"^tensor\((.+)\)$", r"\1", value.type))
    return TensorSpec(name=value.name, dtype=dtype, shape=tuple("?" if size is None else size for size in value.shape))
