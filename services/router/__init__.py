"""Turns events into reconstructions, from NATS and over gRPC."""
