"""Publishes events of a data set, or of the simulator, on NATS: each once."""
