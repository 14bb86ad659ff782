"""What an operator can set about a router."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from icestream.runtime.grpc_settings import GrpcServiceSettings
from icestream.runtime.settings import Port


class RouterSettings(GrpcServiceSettings):
    """Takes events from NATS and from gRPC, asks Triton for their directions, and hands out the results."""

    model_config = SettingsConfigDict(env_prefix="ICESTREAM_ROUTER_", cli_prog_name="icestream-router")

    triton_url: str = "127.0.0.1:8001"
    """host:port of Triton's gRPC service."""
    model: str = "direction"
    """The model that answers where a request names none."""
    geometry: Path | None = None
    """A sensor_geometry.csv; without it events name the built-in detector, icecube86."""
    detector: str | None = None
    """Name of the detector in `geometry`; its file name by default."""

    events_from_domain: str | None = Field(None, pattern=r"^[A-Za-z0-9_-]+$")
    """JetStream domain of another server, linked as a leaf node, whose events this one is to hold as well; see
    docs/deployment.md."""

    grpc_port: Port = 50051
    """Port of the ReconstructionService; 0 takes a free one and logs it."""
    grpc_concurrency: int = Field(64, ge=1)
    """Unary calls in work at once; one more gets RESOURCE_EXHAUSTED. As many events of streams beside them."""
    grpc_max_message_bytes: int = Field(8 << 20, ge=1 << 16)
    """Largest message that is accepted: an event of 200 000 pulses takes 3 MiB."""

    window: int = Field(256, ge=1)
    """Events that are sorted by length together, so that batches are of like length; with twice as many Triton waits
    longer while they are looked at."""
    batch: int = Field(32, ge=1)
    """Events in one request to Triton; at most the model's max_batch_size."""
    requests_in_flight: int = Field(6, ge=1)
    """Requests at Triton at once; 2 to 3 for each model instance keep it busy, more only add latency."""
    events_in_flight: int = Field(2048, ge=1)
    """Events held by this router at once; this times the event size bounds its memory."""
    max_ack_pending: int = Field(4096, ge=1)
    """Events held by all routers together."""
    model_timeout_s: float = Field(10.0, gt=0)
    """Longest wait for one answer of Triton."""
    ack_wait_s: float = Field(30.0, gt=0)
    """After this long without an answer from a router the broker gives the event to another one."""
    delivery_limit: int = Field(20, ge=2)
    """An event that was handed out more often than this without an answer goes to the dead letters."""
    trace_ratio: float = Field(0.01, ge=0, le=1)
    """Share of gRPC calls that start a trace of their own; events from the stream bring their decision."""
