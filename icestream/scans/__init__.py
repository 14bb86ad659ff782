"""What a sky scan is: which pixels it needs, what came back of them, and the map that they make.

Pure functions over frozen values: the scan service, its workers and `icestream scan --local` share them.
"""
