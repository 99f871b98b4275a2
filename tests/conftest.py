"""How property tests run: never against a clock; with CI set the same examples each time; more of them for guards."""

import os

from hypothesis import settings

ALWAYS = os.environ.get("CI") is not None or "STEPGRANT_GUARDS" in os.environ

settings.register_profile("stepgrant", deadline=None, derandomize=ALWAYS)
settings.register_profile("guards", deadline=None, derandomize=True, max_examples=1000)
settings.load_profile("guards" if "STEPGRANT_GUARDS" in os.environ else "stepgrant")
