"""The step that measures latency beside PyTorch, and a version beside the one in use."""
