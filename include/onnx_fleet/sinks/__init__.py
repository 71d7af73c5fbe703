"""Sinks: the registries that people have, and how the feed's events are brought to them."""
