"""A bundle from its stage to the store: stage, charts, manifest, seal, publish, channels, pull, verify, feed."""
