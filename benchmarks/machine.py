"""What a reader must know of the machine to believe a figure."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from benchmarks.results import Machine
from onnx_fleet.processes import hardware

_OURS = ("onnx-fleet", "torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnxruntime")
_PEER = ("optimum-onnx", "optimum", "torch", "transformers", "onnx", "onnxruntime")

_ASK = (
    "import json, sys; from importlib.metadata import version; print(json.dumps({n: version(n) for n in sys.argv[1:]}))"
)


def facts(*, peer_python: Path | None) -> Machine:
    """Of this machine, now.

    Args:
        peer_python: the interpreter of the peer's environment; None where no peer is run.
    """
    return Machine(
        hardware=hardware.hardware(),
        load_average_1m=round(os.getloadavg()[0], 2),
        taken_at=f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        ours={"python": hardware.versions()["python"], **{name: metadata.version(name) for name in _OURS}},
        peer={} if peer_python is None else _versions(peer_python),
    )


def _versions(python: Path) -> Mapping[str, str]:
    said = subprocess.run([python, "-c", _ASK, *_PEER], capture_output=True, text=True, check=True).stdout
    found: dict[str, str] = json.loads(said)
    return found
