"""Tables that read well in a terminal and in Markdown alike."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.results import Spread


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, names: int = 1) -> str:
    """An aligned Markdown table.

    Args:
        names: how many columns are text, from the left; the others are figures, set to the right.
    """
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    left = [column < names for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if is_name else cell.rjust(width)
            for cell, width, is_name in zip(cells, widths, left, strict=True)
        )
        return f"| {' | '.join(padded)} |"

    rule = " | ".join(
        "-" * width if is_name else f"{'-' * (width - 1)}:" for width, is_name in zip(widths, left, strict=True)
    )
    return "\n".join([line(header), f"| {rule} |", *map(line, rows)])


def megabytes(size_bytes: float) -> str:
    """``438``: powers of 1000, as stores bill them."""
    return f"{size_bytes / 1e6:,.0f}"


def judged(found: Spread, *, at_most: float) -> tuple[str, str, str, str, str]:
    """The cells of a row with a target: least, median and most, the target, and whether the median meets it."""
    return *spread(found), f"<= {at_most:.3g}", verdict(met=found.median <= at_most)


def spread(found: Spread) -> tuple[str, str, str]:
    """The cells of least, median and most."""
    return f"{found.least:.2f}", f"{found.median:.2f}", f"{found.most:.2f}"


def verdict(*, met: bool) -> str:
    """What a table says of a target."""
    return "met" if met else "**missed**"
