"""What an operator can set about an emitter."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from icestream.runtime.settings import ServiceSettings


class EmitterSettings(ServiceSettings):
    """Publishes events on NATS, each exactly once, from a data set or live from the simulator."""

    model_config = SettingsConfigDict(env_prefix="ICESTREAM_EMITTER_", cli_prog_name="icestream-emitter")

    dataset: Path | None = None
    """Folder of a data set in the Kaggle format, or an IceCube realtime message or a folder of those; without it
    events are simulated."""
    split: Literal["train", "test"] | None = None
    """Which part of a data set in the Kaggle format; train by default, or what there is."""
    batch_ids: tuple[int, ...] = ()
    """Only these batches of the data set, or runs of realtime messages; written as [1,2]."""
    event_ids: tuple[int, ...] = ()
    """Only these events of the data set; written as [41,42]."""
    events: int | None = Field(None, ge=0)
    """Stop after so many events; without it at the end of the data set, or never."""
    seed: int = Field(1, ge=0)
    """Of the simulation."""

    detector: str = "icecube86"
    """Name of the detector that the sensor ids belong to."""
    geometry: Path | None = None
    """A sensor_geometry.csv to simulate with; without it the built-in detector."""
    source: str | None = None
    """Last token of the subject; the name of the data set's folder or file, or `simulation`."""

    rate: float | None = Field(None, gt=0)
    """Events/s; without it as fast as the broker takes them."""
    poisson: bool = False
    """Draw the times between events from the exponential law instead of keeping them equal."""
    window: int = Field(256, ge=1)
    """Messages in flight to the broker; 64 to 1024 is best."""
    restart: bool = False
    """Publish from the first event on, whatever was published before."""
    trace_ratio: float = Field(0.01, ge=0, le=1)
    """Share of events that are traced."""

    @model_validator(mode="after")
    def _poisson_needs_a_rate(self) -> Self:
        if self.poisson and self.rate is None:
            raise ValueError("--poisson needs --rate, the mean number of events/s")
        if self.dataset is None and (self.batch_ids or self.event_ids or self.split):
            raise ValueError("--split, --batch-ids and --event-ids choose from a --dataset; none is given")
        return self
