"""A model as its author published it: found on the Hub, downloaded, checked, loaded in PyTorch; its tokenizer."""
