"""Tokenizers: packed for every consumer, proven to encode and decode alike, and made graphs of."""
