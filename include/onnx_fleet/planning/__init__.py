"""From a catalogue to work items: YAML, calibration files, fingerprints, and what is published already."""
