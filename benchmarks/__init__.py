"""What an export costs beside optimum's, and how fast its graphs generate: `make bench`."""
