"""ONNX graphs as files and at work: describe, inspect, lint, open in onnxruntime, feed, generate, compare."""
