"""Thin adapters to the outside world, one module or package for each outside thing."""
