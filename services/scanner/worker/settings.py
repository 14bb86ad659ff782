"""What an operator can set about a scan worker."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from icestream.runtime.settings import ServiceSettings


class ScanWorkerSettings(ServiceSettings):
    """Takes batches of pixels from the queue of scans, fits them with the help of Triton, and hands in the fits."""

    model_config = SettingsConfigDict(
        env_prefix="ICESTREAM_SCAN_WORKER_", cli_prog_name="icestream-scan-worker"
    )

    triton_url: str = "127.0.0.1:8001"
    """host:port of Triton's gRPC service."""
    batches_at_once: int = Field(2, ge=1)
    """Batches in work at once: while one is at Triton the next is decoded. One more of each lane waits here."""
    batch_timeout_s: float = Field(120.0, gt=0)
    """A batch that takes longer is given up here and tried by another worker."""
    scans_in_memory: int = Field(4, ge=1)
    """Scans whose prepared events are kept; another one costs a request and the preparation."""
    ack_wait_s: float = Field(30.0, gt=0)
    """After this long without a sign of life the broker gives the batch to another worker."""
    max_ack_pending: int = Field(4096, ge=1)
    """Batches of a lane held by all workers together."""
    delivery_limit: int = Field(4, ge=1)
    """A batch that failed, or ended its worker, so often is halved; a single fit goes to the dead letters."""
    quarantine_after: int = Field(3, ge=1)
    """So many failed batches without a good one between them mean that this worker is sick."""
    quarantine_s: float = Field(60.0, gt=0)
    """For how long a sick worker takes nothing."""
