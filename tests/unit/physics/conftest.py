"""Settings of the property tests of the physics."""

from hypothesis import settings

# The first call of a kernel compiles it, which takes seconds.
settings.register_profile("physics", deadline=None)
settings.load_profile("physics")
