"""
What all tests share.
"""

from hypothesis import HealthCheck, settings

# The same examples each time: a run tells of the change it tests, not of its luck.
# `make fuzz` is where new ones are looked for.
settings.register_profile(
    "protoserve",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("protoserve")
