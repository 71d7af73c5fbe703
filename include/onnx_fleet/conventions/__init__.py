"""How transformers and sentence-transformers lay out a model, by their sources and files; neither is imported."""
