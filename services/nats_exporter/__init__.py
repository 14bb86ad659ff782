"""Shows what NATS' monitoring says as metrics, for Prometheus."""
