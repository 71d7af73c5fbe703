"""The step that makes the same graphs in fewer bits, and judges them."""
