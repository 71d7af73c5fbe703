"""The options that several commands share, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str | None, typer.Argument(help="A Hub repo id: ORG/NAME.", show_default=False)]
OneModel = Annotated[str, typer.Argument(help="A Hub repo id: ORG/NAME.", show_default=False)]
Folder = Annotated[Path, typer.Argument(help="A folder that `onnx-fleet export` made.", show_default=False)]
CatalogueFile = Annotated[Path | None, typer.Option("--catalogue", "-c", help="A catalogue file instead of one model.")]
Store = Annotated[
    str | None,
    typer.Option(help="s3://BUCKET/PREFIX or a folder; default: ONNX_FLEET_STORE, then the demo's own bucket."),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit; default: main.")]
Task = Annotated[str | None, typer.Option(help="Such as text-classification; default: what the Hub says.")]
Architecture = Annotated[
    str | None, typer.Option(help="The class that the weights are of, such as BertForMaskedLM; default: config.json's.")
]
WeightsVariant = Annotated[
    str | None, typer.Option(help="Such as fp16, for model.fp16.safetensors; default: model.safetensors.")
]
RecipeName = Annotated[str | None, typer.Option("--recipe", help="A built-in recipe, such as mean-normalized.")]
Variants = Annotated[
    list[str] | None, typer.Option("--variant", help="A precision beside fp32: fp16, int8, q4, …; may be given again.")
]
Opset = Annotated[int | None, typer.Option(help="ONNX opset version.")]
Only = Annotated[list[str] | None, typer.Option(help="Only entries that match this pattern; may be repeated.")]
Force = Annotated[bool, typer.Option("--force", help="Export again what is published already, as a new version.")]
Channel = Annotated[str, typer.Option(help="The channel to point at what is published.")]
MaxFailed = Annotated[int, typer.Option(min=0, help="How many models may fail or be held; more is exit status 1.")]
MaxRefused = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="How many models the catalogue's rules may refuse; default: no MODEL given alone, any of a catalogue.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Profile = Annotated[bool, typer.Option("--profile", help="Say at the end where the time went, stage by stage.")]
Cuda = Annotated[bool, typer.Option("--cuda", help="On the GPU too.")]
