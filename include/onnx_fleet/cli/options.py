"""The options that several commands share, each written once."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from onnx_fleet.entities.variant import FP32

Model = Annotated[str | None, typer.Argument(help="A Hub repo id: ORG/NAME.", show_default=False)]
OneModel = Annotated[str, typer.Argument(help="A Hub repo id: ORG/NAME.", show_default=False)]
Folder = Annotated[Path, typer.Argument(help="A folder that `onnx-fleet export` made.", show_default=False)]
CatalogueFile = Annotated[Path | None, typer.Option("--catalogue", "-c", help="A catalogue file instead of one model.")]
Store = Annotated[
    str | None,
    typer.Option(help="s3://BUCKET/PREFIX or a folder; default: ONNX_FLEET_STORE, then the bucket of the demo."),
]
Revision = Annotated[str | None, typer.Option(help="A branch, tag or commit; default: main.")]
Task = Annotated[
    str | None, typer.Option(help="The task, such as text-classification; default: the one that the Hub names.")
]
Architecture = Annotated[
    str | None, typer.Option(help="The class of the weights, such as BertForMaskedLM; default: the one in config.json.")
]
WeightsVariant = Annotated[
    str | None,
    typer.Option(help="The set of weights, such as fp16 for model.fp16.safetensors; default: model.safetensors."),
]
RecipeName = Annotated[str | None, typer.Option("--recipe", help="A recipe: mean-normalized, …, or recipes.FILE:NAME.")]
Variants = Annotated[
    list[str] | None, typer.Option("--variant", help="A precision beside fp32: fp16, int8, q4, …; may be repeated.")
]
Opset = Annotated[int | None, typer.Option(help="The ONNX opset version.")]
Only = Annotated[
    list[str] | None, typer.Option(help="Only models that match this pattern, such as BAAI/*; may be repeated.")
]
Force = Annotated[bool, typer.Option("--force", help="Export published models again, as new versions.")]
Channel = Annotated[str, typer.Option(help="The channel to move to the published version.")]
MaxFailed = Annotated[
    int, typer.Option(min=0, help="The number of models that may fail or be held; with more, the exit status is 1.")
]
Since = Annotated[
    datetime | None,
    typer.Option(formats=["%Y-%m-%d"], help="Only models whose Hub repo has had a commit since this day (UTC)."),
]
RetryFailed = Annotated[
    str | None,
    typer.Option(metavar="RUN", help="Only models that failed or were held in this run, by the name in its report."),
]
AllWaves = Annotated[
    bool, typer.Option("--all-waves", help="Take the next wave of a rollout as soon as one is good, up to the last.")
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        "-j",
        min=1,
        help="How many models go through their steps at the same time; a step that measures has the machine alone.",
        show_default="one for each core, as far as their memory allows",
    ),
]
Hold = Annotated[bool, typer.Option("--hold", help="Runs do not move the channel until it is set again.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would move, and move nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
MoveWhy = Annotated[
    str | None, typer.Option("--reason", help="Why, for those who read the history later.", show_default=False)
]
By = Annotated[str | None, typer.Option(help="Who decides; default: USER@HOST of this machine.", show_default=False)]
OnlyPublished = Annotated[
    list[str] | None,
    typer.Option("--only", help="Only published models that match this pattern, such as BAAI/*; may be repeated."),
]
OfCatalogue = Annotated[
    Path | None, typer.Option("--catalogue", "-c", help="Only published models of this catalogue file.")
]
Changed = Annotated[bool, typer.Option("--changed", help="Leave out models that are unchanged.")]
MaxRefused = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="The number of models that may be refused; default: any number of a catalogue, none if MODEL is given.",
    ),
]
TrustPolicyFile = Annotated[
    Path | None,
    typer.Option(
        "--trust-policy",
        help="A file that says whose signatures a bundle needs; default: ONNX_FLEET_TRUST_POLICY, or none.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Profile = Annotated[bool, typer.Option("--profile", help="Print at the end how the time was spent, by stage.")]
Cuda = Annotated[bool, typer.Option("--cuda", help="Run on the GPU, too.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryOptions:
    """What an entry of a catalogue says, for the one model that a command names."""

    revision: Revision = None
    task: Task = None
    architecture: Architecture = None
    weights_variant: WeightsVariant = None
    recipe: RecipeName = None
    opset: Opset = None
    variants: Variants = None

    def given(self) -> dict[str, Any]:
        """Those that were given, under the names of a catalogue's settings."""
        given = {name: value for name, value in asdict(self).items() if value is not None and value != []}
        if self.variants:
            given["variants"] = [FP32, *(name for name in self.variants if name != FP32)]
        return given


def with_entry_options(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command have the fields of EntryOptions as options, and take them as one value: its parameter ``entry``.

    Typer reads a command's signature: this one has the options in the place of that parameter.
    """

    @functools.wraps(command)
    def with_options(**arguments: Any) -> None:
        entry = EntryOptions(**{name: arguments.pop(name) for name in names})
        command(**arguments, entry=entry)

    names = [field.name for field in fields(EntryOptions)]
    kinds = typing.get_type_hints(EntryOptions, include_extras=True)
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kinds[name]) for name in names
    ]
    signature = inspect.signature(command, eval_str=True)
    parts = ([each] if each.annotation is not EntryOptions else options for each in signature.parameters.values())
    parameters = [each for part in parts for each in part]
    with_options.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # inspect's way
    with_options.__annotations__ = {each.name: each.annotation for each in parameters}
    return with_options
