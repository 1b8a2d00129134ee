"""Settings of all tests."""

import os

from hypothesis import settings

# Other work on the machine must not fail a property; in CI the same examples run every time.
settings.register_profile("pairsieve", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("pairsieve")
