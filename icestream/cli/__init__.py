"""The `icestream` command."""
