"""NATS and JetStream: the only package that knows the broker's client library."""
