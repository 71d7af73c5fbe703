"""Two calls at the same time, of which each computes in a library that leaves Python's lock to the other."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Final, TypeVar

Beside = TypeVar("Beside")
Here = TypeVar("Here")

_M_ARENA_MAX: Final = -8
"""glibc's number for the most heaps: man 3 mallopt."""


def beside(other: Callable[[], Beside], here: Callable[[], Here]) -> tuple[Beside, Here]:
    """Return what two calls return: the first one's, from a thread of its own, and the second one's, from this thread.

    PyTorch, onnxruntime and numpy compute so, each with its own threads; neither's values change. Both take memory from
    one heap.
    """
    have_one_heap()
    with ThreadPoolExecutor(1, thread_name_prefix="beside") as pool:
        told = pool.submit(other)
        found = here()
        return told.result(), found


@cache
def have_one_heap() -> None:
    """Have all threads of this process take memory from one heap, where the C library is glibc.

    Each thread would get one of its own otherwise, and keep in it what others could use again.
    """
    if hasattr(libc := ctypes.CDLL(None), "gnu_get_libc_version"):
        libc.mallopt(_M_ARENA_MAX, 1)
