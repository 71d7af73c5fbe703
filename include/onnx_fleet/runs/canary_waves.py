"""Which models follow a change first: waves of which each, with those before it, is a sample of the whole fleet.

The models are put in one order, and a wave is what an order's beginning has beyond the wave before. In the order

- first comes one model of each architecture: a change that breaks an architecture is seen in the first wave;
- then each stratum, which is an architecture with a size and a set of variants, is spread evenly over the rest, so that
  every beginning has about the same share of each stratum. A stratum starts at a place that is drawn, so that a small
  one has its fair chance to be in an early wave.

What is drawn follows from the seed: the same models and the same seed give the same waves.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Collection, Sequence

from onnx_fleet.entities.work_item import WorkItem

_Stratum = tuple[str, str, int, tuple[str, ...]]


def waves(items: Collection[WorkItem], *, shares: Sequence[int], seed: str) -> tuple[tuple[WorkItem, ...], ...]:
    """Deal the items to waves; a wave that gets none is left out.

    Args:
        shares: the percentage of the items that is through after each wave, rising to 100.
    """
    order, architectures = _order(items, seed=seed)
    dealt, begin = [], 0
    for share in shares:
        end = max(math.ceil(len(order) * share / 100), architectures)
        dealt.append(tuple(order[begin:end]))
        begin = max(begin, end)
    return tuple(wave for wave in dealt if wave)


def _order(items: Collection[WorkItem], *, seed: str) -> tuple[list[WorkItem], int]:
    """Return the items in the order in which they go, and the number of architectures, with which it begins."""
    strata: defaultdict[_Stratum, list[WorkItem]] = defaultdict(list)
    for item in items:
        strata[_stratum(item)].append(item)
    places: dict[str, float] = {}
    for stratum, members in strata.items():
        start = _drawn(seed, repr(stratum))
        members.sort(key=lambda item: _drawn(seed, item.model_id))
        places |= {item.model_id: (place + start) / len(members) for place, item in enumerate(members)}
    spread = sorted(items, key=lambda item: (places[item.model_id], _drawn(seed, item.model_id), item.model_id))
    first: dict[str, WorkItem] = {}
    for item in spread:
        first.setdefault(item.model.architecture, item)
    ahead = {item.model_id for item in first.values()}
    return [*first.values(), *(item for item in spread if item.model_id not in ahead)], len(first)


def _stratum(item: WorkItem) -> _Stratum:
    """Return what an item is a sample of; sizes are alike that have as many digits."""
    model = item.model
    return model.architecture, item.family, len(str(model.size_bytes)), tuple(sorted(model.entry.variants))


def _drawn(seed: str, name: str) -> float:
    """Draw a number from 0 to 1 for a name."""
    return int.from_bytes(hashlib.sha256(f"{seed}\n{name}".encode()).digest()[:8]) / 2**64
