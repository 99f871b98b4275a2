"""How property tests run: never against a clock; with CI set the same examples each time; more of them for guards.

HYPOTHESIS_PROFILE=long runs fifty times as many, other ones each time: for an hour at night, on one file (CONTRIBUTING.md).
"""

import os

from hypothesis import HealthCheck, settings

ALWAYS = os.environ.get("CI") is not None or "STEPGRANT_GUARDS" in os.environ
UNTIMED = (HealthCheck.too_slow,)

settings.register_profile("stepgrant", deadline=None, derandomize=ALWAYS, suppress_health_check=UNTIMED)
settings.register_profile("guards", deadline=None, derandomize=True, max_examples=1000, suppress_health_check=UNTIMED)
settings.register_profile("long", deadline=None, max_examples=5000, suppress_health_check=UNTIMED)
settings.load_profile(
    "guards" if "STEPGRANT_GUARDS" in os.environ else os.environ.get("HYPOTHESIS_PROFILE", "stepgrant")
)
