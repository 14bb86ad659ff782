"""`icestream simulate`: a data set of simulated events."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from icestream.physics.detector import Detector, icecube86
from icestream.physics.simulation import simulate as simulate_events
from icestream.readers.geometry import read_sensor_geometry
from icestream.readers.kaggle import KaggleWriter


def simulate(
    out: Annotated[Path, typer.Option(help="Folder of the new data set.")],
    events: Annotated[int, typer.Option(min=1, help="How many events.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed makes the same events.")] = 1,
    geometry: Annotated[
        Path | None,
        typer.Option(help="Your own sensor_geometry.csv; IceCube by default.", show_default=False),
    ] = None,
) -> None:
    """Write simulated events as a data set in the format of the IceCube Kaggle competition."""
    detector: Detector = read_sensor_geometry(geometry) if geometry else icecube86()
    stderr = Console(stderr=True)
    with KaggleWriter(out, detector=detector) as writer, Progress(console=stderr) as progress:
        for event in progress.track(
            simulate_events(detector, seed=seed, n_events=events), total=events, description="simulating"
        ):
            writer.write(event)
    stderr.print(
        f"{events} events of seed {seed} are in {out}; `icestream emit --dataset {out}` publishes them"
    )
