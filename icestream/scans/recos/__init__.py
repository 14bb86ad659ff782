"""The reconstructions that a scan can use."""
