"""Several requests to a store at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")
R = TypeVar("R")

WORKERS: Final = 16
"""The number of values that a store is asked about at the same time."""


def at_once(function: Callable[[T], R], values: Iterable[T], *, threads: str) -> list[R]:
    """Return what a function that asks the store returns for each value, several at a time, in their order.

    Args:
        threads: how the names of the threads begin, in logs.
    """
    with ThreadPoolExecutor(WORKERS, thread_name_prefix=threads) as pool:
        return list(pool.map(function, values))
