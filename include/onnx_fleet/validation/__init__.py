"""The step that holds a stage's graphs to PyTorch, and reports every comparison."""
