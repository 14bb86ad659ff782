"""Fits the pixels of sky scans, batch by batch."""
