"""All benchmarks in a row, then the page.

python -m benchmarks [--runs 3] [--steps export growth generate fleet page] [NAME ...]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from benchmarks import checkpoints, export, fleet, generate, options, page

STEPS = ("export", "growth", "generate", "fleet", "page")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the steps that are asked for; with checkpoints named, only what is about them."""
    parser = options.parser("__main__", __doc__, names="checkpoints")
    parser.prog = "python -m benchmarks"
    parser.add_argument("--runs", type=int, default=3, help="turns of each (default 3)")
    parser.add_argument("--count", type=int, default=fleet.COUNT, help="how many fine-tunes")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=None, help="only these")
    options.add_peer(parser)
    chosen = parser.parse_args(arguments)
    options.require_peer(chosen.peer_venv)
    names = [each.name for each in checkpoints.named(chosen.names)]
    shared = ["--folder", str(chosen.folder)]
    measured = [*shared, "--peer-venv", str(chosen.peer_venv)]
    turns = [*measured, "--runs", str(chosen.runs)]
    generating = [name for name in names if checkpoints.CHECKPOINTS[name].generates]
    run: Mapping[str, Callable[[], None]] = {
        "export": lambda: export.main([*turns, "--", *names]),
        "growth": lambda: export.main([*turns, "--growth"]),
        "generate": lambda: generate.main([*turns, "--", *generating]),
        "fleet": lambda: fleet.main([*turns, "--count", str(chosen.count)]),
        "page": lambda: page.main(shared),
    }
    about_names = ("export", *(["generate"] if generating else []))
    for step in chosen.steps or (about_names if names else STEPS):
        print(f"== {step}", flush=True)
        run[step]()


if __name__ == "__main__":
    main()
