"""`icestream event`: a look at one event, and realtime messages as a table."""

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from icestream.cli.scan_event import event_of_dataset
from icestream.errors import InvalidDataset, InvalidInput, Misconfigured
from icestream.readers.datasets import open_dataset
from icestream.readers.realtime import RealtimeDataset, list_contents

if TYPE_CHECKING:
    from icestream.cli.event_facts import EventFacts
    from icestream.physics.detector import Detector

app = typer.Typer(help="Look at events, realtime alerts of IceCube above all.", no_args_is_help=True)

PLOT_SUFFIXES = (".png", ".pdf")


@app.command("show")
def show(
    path: Annotated[
        Path,
        typer.Argument(
            help="An IceCube realtime message, a folder of those, or a data set in the Kaggle format."
        ),
    ],
    event_index: Annotated[
        int | None, typer.Option(min=0, help="Which event of several, from 0.", show_default=False)
    ] = None,
    event_id: Annotated[
        str | None, typer.Option(help="The same, as <event> or <run>.<event>.", show_default=False)
    ] = None,
    detector: Annotated[str, typer.Option(help="Name of a Kaggle data set's detector.")] = "icecube86",
    direction: Annotated[
        str | None,
        typer.Option(
            help="AZIMUTH,ZENITH in degrees: compare with this one, as `icestream reconstruct` prints it.",
            show_default=False,
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw it into this .png or .pdf file.", show_default=False)
    ] = None,
    contents: Annotated[  # noqa: FBT002
        bool, typer.Option("--contents", help="List every object of a realtime message.")
    ] = False,
    as_json: Annotated[  # noqa: FBT002
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Show what an event is: time, pulses, the online system's directions in the detector and in the sky."""
    given = None if direction is None else _direction(direction)
    if plot is not None and plot.suffix not in PLOT_SUFFIXES:
        raise InvalidInput(f"--plot {plot}: expected a name that ends in {' or '.join(PLOT_SUFFIXES)}")
    # What knows the Earth's rotation, and numba, take seconds to import, which no other command should wait for.
    from icestream.cli.event_facts import facts_of  # noqa: PLC0415
    from icestream.cli.event_tables import as_json as facts_as_json  # noqa: PLC0415
    from icestream.cli.event_tables import contents_text, directions_table, facts_table  # noqa: PLC0415

    chosen = event_of_dataset(path, detector=detector, event_index=event_index, event_id=event_id)
    chosen.say_if_not_chosen("showing")
    if contents and chosen.message is None:
        raise InvalidInput(f"--contents lists objects of realtime messages; {path} is a Kaggle data set")
    modules = chosen.read_detector()
    facts = facts_of(chosen, modules, given)
    frames = list_contents(chosen.message) if contents and chosen.message is not None else None
    if plot is not None:
        _draw(facts, modules, plot)
    if as_json:
        json.dump(facts_as_json(facts, frames), sys.stdout, indent=2, allow_nan=False)
        sys.stdout.write("\n")
        return
    console = Console(highlight=False)
    console.print(facts_table(facts))
    if facts.directions:
        console.print(directions_table(facts.directions))
    for frame in frames or ():
        console.print(contents_text(frame), soft_wrap=True)
    if plot is not None:
        console.print(str(plot), markup=False, soft_wrap=True)


@app.command("export")
def export(
    path: Annotated[Path, typer.Argument(help="An IceCube realtime message, or a folder of those.")],
    out: Annotated[Path, typer.Option(help="The Parquet file to write.", show_default=False)],
) -> None:
    """Write the pulses of realtime messages as one Parquet table, a row each.

    What cannot be read is said and left out; the exit status is 1 then.
    """
    from icestream.cli.event_export import export_messages  # noqa: PLC0415

    messages = open_dataset(path)
    if not isinstance(messages, RealtimeDataset):
        raise InvalidDataset(path, "a Kaggle data set, whose pulses are Parquet tables already")
    console = Console(stderr=True, soft_wrap=True)
    exported = export_messages(messages, out, lambda problem: console.print(Text(problem, "yellow")))
    Console(highlight=False, soft_wrap=True).print(
        f"{out}: {exported.n_pulses} pulses of {exported.n_events} events", markup=False
    )
    if (n_unreadable := messages.n_events - exported.n_events) > 0:
        console.print(f"{n_unreadable} of {messages.n_events} messages cannot be read; see above")
        raise typer.Exit(1)


def _draw(facts: "EventFacts", detector: "Detector", path: Path) -> None:
    try:
        from icestream.cli.event_plot import draw_event, write_plot  # noqa: PLC0415
    except ImportError as error:
        raise Misconfigured(
            "--plot needs matplotlib; install it with: pip install 'icestream[plots]'"
        ) from error
    try:
        write_plot(draw_event(facts, detector), path)
    except OSError as error:
        raise InvalidInput(f"--plot {path} cannot be written: {error.strerror}") from error


def _direction(text: str) -> tuple[float, float]:
    """Azimuth and zenith in rad."""
    try:
        azimuth_deg, zenith_deg = map(float, text.split(","))
    except ValueError as error:
        raise InvalidInput(f"--direction {text!r} is not AZIMUTH,ZENITH, in degrees") from error
    # Written so that NaN fails as well.
    if not (math.isfinite(azimuth_deg) and 0 <= zenith_deg <= 180):
        raise InvalidInput(f"--direction {text!r} is no direction; the zenith angle lies in [0, 180] degrees")
    return math.radians(azimuth_deg), math.radians(zenith_deg)
