"""What an operator can set about a recorder."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from icestream.runtime.grpc_settings import GrpcServiceSettings
from icestream.runtime.settings import Port


class RecorderSettings(GrpcServiceSettings):
    """Records reconstructions, dead letters and ended scans in a database, and answers questions about them."""

    model_config = SettingsConfigDict(env_prefix="ICESTREAM_RECORDER_", cli_prog_name="icestream-recorder")

    database_url: str = "sqlite:///icestream-records.sqlite"
    """sqlite:///FILE, or postgresql://USER@HOST:PORT/NAME with the password in PGPASSWORD."""
    batch_rows: int = Field(1000, ge=1, le=10_000)
    """Most rows in one transaction."""
    gather_s: float = Field(0.2, ge=0.0, le=10.0)
    """A transaction waits so long for more rows after its first one, unless `batch_rows` are there before."""
    messages_in_flight: int = Field(4096, ge=1)
    """Messages of one stream held by this recorder at once; this times the message size bounds its memory."""
    max_ack_pending: int = Field(16_384, ge=1)
    """Messages of one stream held by all recorders together."""
    ack_wait_s: float = Field(60.0, gt=0)
    """After this long without an answer from a recorder the broker gives the message to another one."""

    grpc_port: Port = 50053
    """Port of the RecordService; 0 takes a free one and logs it."""
    grpc_concurrency: int = Field(32, ge=1)
    """Calls in work or waiting at once; one more gets RESOURCE_EXHAUSTED."""
    readers: int = Field(4, ge=1, le=64)
    """Calls that are at the database at once."""
    query_timeout_s: float = Field(20.0, gt=0)
    """A question that keeps the database longer is given up."""
    trace_ratio: float = Field(0.01, ge=0, le=1)
    """Share of gRPC calls that start a trace of their own; messages bring their decision."""
