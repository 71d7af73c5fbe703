"""What every test may ask for; each fixture's own module says what it is."""

from __future__ import annotations

pytest_plugins = ["fixtures.exported", "fixtures.hub", "fixtures.models", "fixtures.s3"]
