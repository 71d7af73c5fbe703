"""``onnx-fleet inspect``: the graphs of a bundle at a terminal, as JSON, or in the netron viewer."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from onnx_fleet import jsonio
from onnx_fleet.cli import terminal
from onnx_fleet.cli.options import Json
from onnx_fleet.formatting import human_bytes
from onnx_fleet.graphs import inspection
from onnx_fleet.graphs.inspection import GraphView

_TOP_OPS = 8
_TOP_WEIGHTS = 5
_LOCAL = "127.0.0.1"


def inspect(
    bundle: Annotated[
        Path, typer.Argument(help="A bundle's folder, an exported folder, or an .onnx file.", show_default=False)
    ],
    digests: Annotated[
        bool, typer.Option("--digests", help="Read every weight, to find those that are stored twice.")
    ] = False,
    netron: Annotated[
        bool, typer.Option("--netron", help="Open the graphs in the netron viewer, served to this machine alone.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the graphs of a bundle: inputs, outputs, operators, weights, and warnings."""
    found = inspection.inspect(bundle, digests=digests)
    if as_json:
        terminal.as_json(jsonio.to_json(found))
    else:
        for view in found.graphs:
            _show_graph(view)
        _show_warnings(found.warnings, title=found.bundle)
    if netron:
        folder = bundle if bundle.is_dir() else bundle.parent
        _open_viewer([folder / view.path for view in found.graphs])


def _show_graph(view: GraphView) -> None:
    opsets = ", ".join(f"{domain} {version}" for domain, version in view.opsets.items())
    terminal.output.print(f"\n{view.path}", style="bold")
    terminal.line(
        f"opset {opsets}; IR {view.ir_version}; {human_bytes(view.size_bytes)}; producer {view.producer or 'not named'}"
    )
    rows = [("in", each) for each in view.inputs] + [("out", each) for each in view.outputs]
    terminal.table(
        ("", "name", "dtype", "shape"),
        [(way, spec.name, spec.dtype, f"[{', '.join(map(str, spec.shape))}]") for way, spec in rows],
        prose=("shape",),
        below=("shape",),
        named_by=2,
    )
    tops = [f"{op} {count}" for op, count in list(view.ops.items())[:_TOP_OPS]]
    more = f", {len(view.ops) - _TOP_OPS} more kinds" if len(view.ops) > _TOP_OPS else ""
    inside = f", {view.subgraphs} subgraphs" if view.subgraphs else ""
    inside += f", functions {', '.join(view.functions)}" if view.functions else ""
    terminal.sentence(f"{view.nodes} nodes{inside}: {', '.join(tops)}{more}")
    sizes = ", ".join(f"{dtype} {human_bytes(size)}" for dtype, size in view.bytes_by_dtype.items())
    terminal.sentence(f"{view.weights} weights, {human_bytes(view.weight_bytes)}: {sizes or 'none'}")
    terminal.table(
        ("weight", "dtype", "shape", "size", "file", "shared with"),
        [
            (
                each.name,
                each.dtype,
                f"[{', '.join(map(str, each.shape))}]",
                human_bytes(each.size_bytes),
                each.file,
                ", ".join(each.shared_with) or "–",
            )
            for each in view.largest[:_TOP_WEIGHTS]
        ],
        numbers=("size",),
        prose=("shared with",),
        below=("shared with",),
        spare=("file", "shape"),
    )
    _show_warnings(view.warnings, title=view.path)


def _show_warnings(warnings: Sequence[str], *, title: str) -> None:
    for each in warnings:
        terminal.output.print("[yellow]warning[/]", end=" ")
        terminal.output.print(f"{title}: {each}", markup=False, highlight=False, soft_wrap=True)


def _open_viewer(paths: Sequence[Path]) -> None:
    """Serve each graph on a port of its own until it is interrupted."""
    try:
        viewer = importlib.import_module("netron")
    except ImportError as err:
        raise typer.BadParameter(
            "the netron viewer is not installed; add it with `pip install netron`", param_hint="--netron"
        ) from err
    for path in paths:
        host, port = viewer.serve(str(path), None, address=(_LOCAL, 0), browse=True)
        terminal.say(f"{path}: http://{host}:{port}")
    terminal.say("Ctrl-C ends the viewer")
    viewer.wait()
