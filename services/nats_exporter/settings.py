"""What an operator can set about a NATS exporter."""

from pydantic_settings import SettingsConfigDict

from icestream.runtime.settings import ServiceSettings


class NatsExporterSettings(ServiceSettings):
    """Shows the state of the NATS server, its streams and its consumers as metrics."""

    model_config = SettingsConfigDict(
        env_prefix="ICESTREAM_NATS_EXPORTER_", cli_prog_name="icestream-nats-exporter"
    )

    monitor_url: str = "http://127.0.0.1:8222"
    """Where the server's monitoring is, its --http_port; in a cluster each server needs an exporter."""
