"""For all tests: at a landing property tests try the same examples each time, elsewhere new ones."""

import os

from hypothesis import settings

settings.register_profile("landing", derandomize=True, deadline=None)
settings.register_profile("anywhere", deadline=None)
settings.load_profile("landing" if os.environ.get("CI") else "anywhere")
