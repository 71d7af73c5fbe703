"""Bundles as folders that servers of models read: what lies where, and the configuration beside it."""
