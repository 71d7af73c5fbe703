"""What an entry's variants are calibrated with: the texts or pictures that it names."""
