"""Sound to trace, prove and measure with: waveforms and spectrograms as feature extractors make them. numpy only."""

from __future__ import annotations

from typing import Literal

import numpy as np

Kind = Literal["noise", "tones"]


def batch(count: int, *shape: int, seed: int, kind: Kind) -> np.ndarray:
    """Return sounds, float32 [count, *shape]: each is another one, of zero mean and unit variance.

    Args:
        shape: (samples,) for a waveform, (frames, bins) for a spectrogram: time is on the first axis.
        kind: ``tones`` rise, fade and leave half of the time silent, as speech does.
    """
    rng = np.random.default_rng((seed, count, *shape))
    if kind == "noise":
        return rng.standard_normal((count, *shape)).astype(np.float32)
    time = np.arange(shape[0]) / 16_000
    rows = []
    for row in range(count):
        rising = np.sin(2 * np.pi * (180 + 70 * row + 900 * time) * time)
        spoken = np.sin(2 * np.pi * np.linspace(0, 3 + row, shape[0])) > 0
        sound = rising * spoken * np.linspace(1, 0.2, shape[0])
        for bins in shape[1:]:
            sound = sound[:, np.newaxis] * np.cos(np.arange(bins) / (2 + row)) + 0.1 * np.arange(bins) / bins
        sound = sound + 0.01 * rng.standard_normal(shape)
        rows.append((sound - sound.mean()) / (sound.std() + 1e-7))
    return np.stack(rows).astype(np.float32)
