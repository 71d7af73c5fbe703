"""An arrangement: which file of a bundle lies where in a server's folder, and what is written beside them.

<folder>/manifest.json      the bundle's own
<folder>/layout.json        the record of the arrangement: every file, its digest, and its path in the bundle
<folder>/…                  the files of the bundle: where a layout says nothing of one, it keeps its path
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from onnx_fleet import jsonio
from onnx_fleet.bundles.bundle import Bundle
from onnx_fleet.bundles.manifest import FILE_NAME, Manifest, Sha256
from onnx_fleet.entities.graph_info import GraphInfo
from onnx_fleet.entities.naming import ref_of
from onnx_fleet.errors import LayoutUnsupported
from onnx_fleet.store import keys, transfer

RECORD: Final = "layout.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a person decides about a layout."""

    variant: str
    """The precision whose graphs the server runs; those of the others are left out."""
    storage_uri: str | None = None
    """Where the server will find the folder, for a layout whose configuration names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A bundle that is to be arranged."""

    manifest: Manifest
    choice: Choice
    read: Callable[[str], bytes]
    """Returns the verified bytes of one of the bundle's small files."""

    @property
    def graphs(self) -> tuple[GraphInfo, ...]:
        """The graphs of the chosen variant."""
        return tuple(graph for graph in self.manifest.graphs if graph.variant == self.choice.variant)

    def refusal(self, why: str) -> LayoutUnsupported:
        """Return the error that says why the bundle cannot be arranged."""
        return LayoutUnsupported(f"{ref_of(self.manifest.bundle)}: {why}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrangement:
    """What a folder is to hold."""

    placed: Mapping[str, str]
    """The files of the bundle: path in the folder -> path in the bundle."""
    made: Mapping[str, str]
    """The files that are written: path in the folder -> text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedFile:
    """One file of a folder."""

    path: str
    sha256: Sha256
    bundle_path: str | None
    """Its path in the bundle; None for a file that was written for the server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The document beside an arrangement, by which the folder can be verified."""

    schema_version: Literal[1] = 1
    layout: str
    model_id: str
    version: str
    manifest_sha256: Sha256
    files: tuple[PlacedFile, ...] = Field(min_length=1)
    """Every file but the manifest and this record, in order of their paths."""


Layout = Callable[[Subject], Arrangement]


def kept(subject: Subject, *, moved: Iterable[str] = ()) -> dict[str, str]:
    """Return the files that stay where the bundle has them: all but other variants' graphs and weights.

    Args:
        moved: paths of files that the layout places itself.

    Raises:
        LayoutUnsupported: the bundle does not have the variant.
    """
    if not subject.graphs:
        there = ", ".join(dict.fromkeys(graph.variant for graph in subject.manifest.graphs))
        raise subject.refusal(f"has no {subject.choice.variant}; it has {there}: choose one of these with --variant")
    left_out = set(moved)
    wanted = {path for graph in subject.graphs for path in _files(graph)}
    left_out |= {path for graph in subject.manifest.graphs for path in _files(graph)} - wanted
    return {file.path: file.path for file in subject.manifest.files if file.path not in left_out}


def _files(graph: GraphInfo) -> tuple[str, ...]:
    return (graph.path, *graph.weight_files)


def record(arranged: Arrangement, *, layout: str, found: Bundle) -> Record:
    """Return the record of an arrangement of a bundle."""
    digests = {file.path: file.sha256 for file in found.manifest.files}
    placed = {
        path: PlacedFile(path=path, sha256=digests[source], bundle_path=source)
        for path, source in arranged.placed.items()
    }
    made = {
        path: PlacedFile(path=path, sha256=transfer.sha256_of(text.encode()), bundle_path=None)
        for path, text in arranged.made.items()
    }
    files = placed | made
    return Record(
        layout=layout,
        model_id=found.model_id,
        version=found.version,
        manifest_sha256=found.manifest_sha256,
        files=tuple(files[path] for path in sorted(files)),
    )


def write(arranged: Arrangement, into: Path, *, bundle: Path, record: Record) -> None:
    """Make the folder from a pulled bundle: its files get a second name there, so that no byte is copied.

    Args:
        bundle: a folder with all files of the bundle, on the same disk.
    """
    into.mkdir()
    for path, source in {**arranged.placed, FILE_NAME: FILE_NAME}.items():
        place(bundle / keys.checked(source), into / keys.checked(path))
    for path, text in arranged.made.items():
        target = into / keys.checked(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    (into / RECORD).write_bytes(jsonio.canonical(jsonio.to_json(record)))


def place(source: Path, path: Path) -> None:
    """Give a file a second name, or copy it where the file system has no second names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, path)
