"""The folder that a benchmark works in, the local Hub over its checkpoints, and the two sides' commands."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import checkpoints
from benchmarks.checkpoints import Checkpoint
from benchmarks.processes import Cost, bare_environment, measured
from onnx_fleet.planning.catalogue import reader
from onnx_fleet.source import download, resolve
from onnx_fleet.source.hub_client import Hub, HubSettings
from onnx_fleet_demo.hub_server import HubServer

_UNCHECKED = (
    "import sys; from optimum.exporters.onnx import main_export; "
    "main_export(sys.argv[1], sys.argv[2], task=sys.argv[3], do_validation=False)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """A benchmark's folder: ``hub/`` with the checkpoints, ``hf/`` with their downloads, ``results/``, ``scratch/``."""

    folder: Path
    hub_url: str
    peer_venv: Path
    """The environment that optimum is pinned in."""

    @property
    def results(self) -> Path:
        return self.folder / "results"

    @property
    def scratch(self) -> Path:
        return self.folder / "scratch"

    def fresh(self, name: str) -> Path:
        """An empty folder under scratch/, whatever lay there before."""
        place = self.scratch / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        return place

    def have(self, checkpoint: Checkpoint) -> Path:
        """Make a checkpoint and download it, where that is not done yet: both sides begin with the files on disk."""
        folder = checkpoints.make(checkpoint, self.folder / "hub")
        client = Hub(HubSettings(endpoint=self.hub_url, cache_dir=self.folder / "hf" / "hub"))
        model = resolve.resolve(reader.entry({"repo_id": checkpoint.repo_id}, source=checkpoint.name), hub=client)
        download.download(model, hub=client)
        return folder

    def onnx_fleet(self, *arguments: str | Path, store: Path, log: str) -> Cost:
        """Run one of our commands as a whole process."""
        environment = bare_environment() | {
            "HF_ENDPOINT": self.hub_url,
            "HF_HOME": str(self.folder / "hf"),
            "ONNX_FLEET_WORK_DIR": str(self.scratch / "work"),
            "COLUMNS": "200",
        }
        command = [Path(sys.executable).with_name("onnx-fleet"), *arguments, "--store", store]
        return measured(command, environment=environment, log=self.scratch / "logs" / f"{log}.log")

    def optimum(self, checkpoint: Checkpoint, out: Path, *, log: str, unchecked: bool = False) -> Cost:
        """Run optimum's exporter as a whole process, with its own defaults for the task.

        Args:
            unchecked: without the validation that optimum-cli always does, and only Python can leave out.
        """
        source = (self.folder / "hub" / checkpoint.repo_id).absolute()
        binaries = self.peer_venv / "bin"
        command: Sequence[str | Path] = (
            [binaries / "python", "-c", _UNCHECKED, source, out, checkpoint.peer_task]
            if unchecked
            else [binaries / "optimum-cli", "export", "onnx", "--model", source, "--task", checkpoint.peer_task, out]
        )
        environment = bare_environment() | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(self.folder / "hf-peer")}
        environment.pop("PYTHONPATH", None)
        return measured(command, environment=environment, log=self.scratch / "logs" / f"{log}.log")


@contextmanager
def opened(folder: Path, *, peer_venv: Path) -> Iterator[Workplace]:
    """A workplace whose Hub serves until the block ends."""
    root = folder.absolute() / "hub"
    root.mkdir(parents=True, exist_ok=True)
    with HubServer(root) as server:
        yield Workplace(folder=folder.absolute(), hub_url=server.url, peer_venv=peer_venv.absolute())


def size_bytes(folder: Path) -> int:
    """What lies in a folder; a file with several names counts once."""
    stats = {(stat.st_dev, stat.st_ino): stat for file in folder.rglob("*") if file.is_file() for stat in [file.stat()]}
    return sum(stat.st_size for stat in stats.values())
