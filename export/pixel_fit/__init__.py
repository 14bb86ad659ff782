"""Fits of a hypothesis to an event for many directions at once, as tensor programs that Triton serves."""
