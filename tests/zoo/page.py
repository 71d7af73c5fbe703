"""docs/architectures.md: a row an architecture, as the last survey found it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from zoo import of_family
from zoo.architecture import Architecture
from zoo.survey import Verdict, survey

PAGE = Path(__file__).resolve().parents[2] / "docs" / "architectures.md"

EVERY = 24
"""A row costs about ten seconds of a core: all of them are more than every push can wait for."""

_STATUSES = ("passed", "failed", "refused")
_TITLES: Mapping[str, str] = {
    "encoder": "Encoders",
    "decoder": "Decoders",
    "seq2seq": "Encoder-decoders",
    "vision": "Vision",
    "speech": "Speech",
    "dual": "Dual encoders",
    "vlm": "Vision-language models",
}
_HEAD = """# Architectures

Every row is a model class of transformers {transformers}, made tiny from its real configuration class, with weights
that make faults visible, and taken through the export and the validation that every model goes through. CI takes every
{every}th row of each family again, and fails when one ends otherwise than this page says.

- **passed**: every check held, at batch sizes and lengths that were never traced, with padding, against plain PyTorch.
- **failed**: graphs were made and did not prove right, so they are never published.
- **refused**: no graph was made; the message is the one that a user gets.

The worst difference is the largest one from PyTorch over all outputs of all checks; outputs are of unit size. An
architecture that is not here is tried with its task's family, and published only if it proves right.

{passed} of {rows} rows pass, of {types} model types. Write this page again with `make architectures`.
"""


def render(architectures: Sequence[Architecture], lines: Mapping[str, str], *, transformers: str, types: int) -> str:
    """The page from its rows' lines; rows without a line are left out.

    Args:
        lines: architecture -> its line of the table.
        types: how many model types pass.
    """
    found = [status(lines[row.name]) for row in architectures if row.name in lines]
    passed = found.count("passed")
    parts = [_HEAD.format(every=EVERY, transformers=transformers, passed=passed, rows=len(found), types=types)]
    for family, title in _TITLES.items():
        rows = [lines[row.name] for row in architectures if row.family == family and row.name in lines]
        if rows:
            parts.append("\n".join((f"## {title}", "", *_COLUMNS, *rows, "")))
    return "\n".join(parts)


_COLUMNS = ("| architecture | task | graphs | worst difference | status | |", "| --- | --- | --- | --- | --- | --- |")


def line(verdict: Verdict) -> str:
    """A verdict as a line of the table."""
    worst = "–" if verdict.worst_abs_diff is None else f"{verdict.worst_abs_diff:.0e}"
    graphs = ", ".join(f"`{role}`" for role in verdict.graphs) or "–"
    note = verdict.note.replace("|", "\\|")
    cells = (f"`{verdict.architecture}`", verdict.task, graphs, worst, verdict.status, note or "–")
    return f"| {' | '.join(cells)} |"


def lines(page: Path = PAGE) -> dict[str, str]:
    """Architecture -> its line, as a page has them; empty when there is no page yet."""
    if not page.exists():
        return {}
    rows = [text for text in page.read_text(encoding="utf-8").splitlines() if text.startswith("| `")]
    return {text.split("`")[1]: text for text in rows}


def status(text: str) -> str:
    """``passed``, ``failed`` or ``refused``, from a line."""
    return next(cell for cell in text.strip("| ").split(" | ") if cell in _STATUSES)


def sample(family: str) -> tuple[Architecture, ...]:
    """The rows of a family that CI surveys again."""
    said = lines()
    return tuple(row for row in of_family(family) if row.name in said)[::EVERY]


def require_as_documented(architecture: Architecture, folder: Path) -> None:
    """Survey one architecture, and hold what is found to the page."""
    found = survey(architecture, folder)
    said = lines().get(architecture.name)
    assert said is not None, f"{architecture.name} has no row in {PAGE.name}: run make architectures"
    assert found.status == status(said), f"{PAGE.name} says {said}; now: {line(found)}"
