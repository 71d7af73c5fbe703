"""The catalogue: YAML to entries, with every fault named by its line."""
