"""IceStream: neutrino event reconstruction as a service."""
