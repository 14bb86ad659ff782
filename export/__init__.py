"""Trains, calibrates, evaluates and exports the `direction` model; the only home of torch."""
