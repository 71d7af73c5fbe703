"""Numbers as people read them."""

from __future__ import annotations

import humanize

_NOTHING = "–"


def models(count: int) -> str:
    """``1 model``, ``3 models``."""
    return "1 model" if count == 1 else f"{count} models"


def human_bytes(size_bytes: int | None) -> str:
    """``90.9 MB``; powers of 1000, as stores bill them. A dash for None."""
    if size_bytes is None:
        return _NOTHING
    return f"{size_bytes} B" if size_bytes < 1000 else humanize.naturalsize(size_bytes)


def human_ms(value: float | None, *, noisy: bool = False) -> str:
    """``5.01``, and ``5.01 (noisy)`` where the machine was. A dash for None."""
    if value is None:
        return _NOTHING
    return f"{value:.2f} (noisy)" if noisy else f"{value:.2f}"


def human_s(seconds: float) -> str:
    """``40 s``, ``3 min``, ``2 h 10 min``: as exact as a guess of what is left can be."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
