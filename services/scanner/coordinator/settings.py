"""What an operator can set about a scanner."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from icestream.runtime.grpc_settings import GrpcServiceSettings
from icestream.runtime.settings import Port
from icestream.scan_acceptance import DEFAULT_RECO


class ScannerSettings(GrpcServiceSettings):
    """Accepts sky scans over gRPC, queues their pixels for scan workers and gathers the maps."""

    model_config = SettingsConfigDict(env_prefix="ICESTREAM_SCANNER_", cli_prog_name="icestream-scanner")

    grpc_port: Port = 50052
    """Port of the ScanService; 0 takes a free one and logs it."""
    grpc_max_message_bytes: int = Field(8 << 20, ge=1 << 16)
    """Largest request that is accepted: an event of 200 000 pulses takes 3 MiB."""
    default_reco: str = DEFAULT_RECO
    """The reconstruction of scans that name none."""
    geometry: Path | None = None
    """A sensor_geometry.csv; without it events name the built-in detector, icecube86."""
    detector: str | None = None
    """Name of the detector in `geometry`; its file name by default."""

    max_running: int = Field(4, ge=1)
    """Catalogue scans that run at once; alerts always run."""
    max_queued: int = Field(10_000, ge=1)
    """Catalogue scans that wait; one more gets RESOURCE_EXHAUSTED."""
    batches_queued: int = Field(512, ge=1)
    """Batches of one scan in the queue or at workers; well above the batches that all workers hold together."""
    stalled_after_s: float = Field(300.0, gt=0)
    """After so long without a result, batches of a scan that are not in the queue (any more) are queued anew."""
    maps_in_memory: int = Field(8, ge=1)
    """Maps of ended scans that are kept; another one is read from the log."""
    trace_ratio: float = Field(0.1, ge=0, le=1)
    """Share of catalogue scans that are traced; alerts always are."""
