"""The proof of the prover: ways to break good bundles of every family, each with the check that has to see it.

A row is a fault that was met, or that somebody is likely to meet. Add each real one.
"""

from __future__ import annotations

from mutations import beside, decoder, dual, encoder, page_of_text, seq2seq, speech, vision, vlm, whole
from mutations.mutation import Mutation
from mutations.variants import VARIANT_MUTATIONS

MUTATIONS: tuple[Mutation, ...] = (
    *encoder.MUTATIONS,
    *page_of_text.MUTATIONS,
    *decoder.MUTATIONS,
    *seq2seq.MUTATIONS,
    *vision.MUTATIONS,
    *speech.MUTATIONS,
    *dual.MUTATIONS,
    *vlm.MUTATIONS,
    *beside.MUTATIONS,
    *whole.MUTATIONS,
)

__all__ = ["MUTATIONS", "VARIANT_MUTATIONS", "Mutation"]
