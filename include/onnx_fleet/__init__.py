"""Verified, versioned ONNX bundles from a catalogue of Hugging Face Hub models."""

__version__ = "0.1.0"
