"""Accepts sky scans, hands their pixels to workers and gathers the maps; serves the ScanService."""
