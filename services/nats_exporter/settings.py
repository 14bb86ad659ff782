"""What an operator can set about a NATS exporter."""

from pydantic_settings import SettingsConfigDict

from icestream.runtime.settings import ServiceSettings


class NatsExporterSettings(ServiceSettings):
    """Shows the state of the NATS servers, their streams and their consumers as metrics."""

    model_config = SettingsConfigDict(
        env_prefix="ICESTREAM_NATS_EXPORTER_", cli_prog_name="icestream-nats-exporter"
    )

    monitor_urls: str = "http://127.0.0.1:8222"
    """Where the servers' monitoring is, their --http_port: URLs separated by commas. Each address that a host has
    is one of them, so that of a cluster the name of its headless service is enough."""
