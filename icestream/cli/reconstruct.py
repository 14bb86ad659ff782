"""`icestream reconstruct`: events of a data set or of realtime messages through the gRPC call."""

import asyncio
import csv
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated

import grpc
import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table
from rich.text import Text

from icestream.cli.access import access
from icestream.cli.directions_table import COLUMNS, cells, error_rad
from icestream.cli.target import DEFAULT_DIRECTORY, DirectoryOption, RouterOption, router_address
from icestream.codec import event_to_message, reconstruction_from_message
from icestream.errors import Unavailable
from icestream.physics.directions import angles, opening_angles_rad
from icestream.physics.events import Event, EventId, Reconstruction
from icestream.readers.datasets import Dataset, open_dataset
from icestream.readers.realtime import RealtimeDataset, StoredReconstruction
from icestream.readers.unreadable import UnreadableEvent
from icestream.runtime.lifecycle import ended_by_signals
from icestream.v1 import reconstruction_pb2, reconstruction_pb2_grpc

OnlineTracks = dict[EventId, StoredReconstruction]

_CONCURRENCY = 16
_ROWS_SHOWN = 20
_PATIENCE_S = 60.0


def reconstruct(
    dataset: Annotated[
        Path,
        typer.Argument(
            help="Folder of a data set in the Kaggle format, an IceCube realtime message, or a folder of those."
        ),
    ],
    directory: DirectoryOption = DEFAULT_DIRECTORY,
    router: RouterOption = None,
    events: Annotated[int | None, typer.Option(min=1, help="At most so many.", show_default=False)] = None,
    event_id: Annotated[list[int] | None, typer.Option(help="Only this event; may be repeated.")] = None,
    detector: Annotated[str, typer.Option(help="Name of the detector.")] = "icecube86",
    model: Annotated[str, typer.Option(help="Name of the model; the router's default if empty.")] = "",
    submission: Annotated[
        Path | None, typer.Option(help="Write event_id,azimuth,zenith to this CSV file.", show_default=False)
    ] = None,
) -> None:
    """Ask a router for the directions of a data set's events and show them.

    Events of realtime messages are compared with the tracks of IceCube's online system. Exits with 1 where an event
    has no reconstruction.
    """
    chosen = open_dataset(dataset, detector=detector, event_ids=event_id or None)
    n_events = min(events or chosen.n_events, chosen.n_events)
    address = router_address(directory, router)
    online: OnlineTracks = {}
    source = _events(chosen, n_events, online)
    reconstructions = asyncio.run(_collect(address, source, n_events, model))
    _show(reconstructions, online)
    if submission is not None:
        _write_submission(submission, reconstructions)
    if (n_without := n_events - len(reconstructions)) > 0:
        console = Console(stderr=True, soft_wrap=True)
        console.print(f"{n_without} of {n_events} events have no reconstruction; see above")
        raise typer.Exit(1)


def _events(dataset: Dataset, n_events: int, online: OnlineTracks) -> Iterator[Event | UnreadableEvent]:
    """The events; those of messages leave their online tracks behind, which are never sent."""
    if not isinstance(dataset, RealtimeDataset):
        yield from dataset.events(limit=n_events)
        return
    for message in dataset.messages(limit=n_events):
        if isinstance(message, UnreadableEvent):
            yield message
        else:
            if message.online_track is not None:
                online[message.event.id] = message.online_track
            yield message.event


async def _collect(
    address: str, events: Iterator[Event | UnreadableEvent], n_events: int, model: str
) -> list[Reconstruction]:
    """Ask for each event, some at a time; what fails is said and left out."""
    console = Console(stderr=True)
    found: list[Reconstruction] = []
    with Progress(console=console) as progress, ended_by_signals():
        task = progress.add_task("reconstructing", total=n_events)
        async with access().channel(address) as channel:
            stub = reconstruction_pb2_grpc.ReconstructionServiceStub(channel)  # type: ignore[no-untyped-call]
            while chunk := list(islice(events, _CONCURRENCY)):
                for answer in await asyncio.gather(*(_ask(stub, event, model, address) for event in chunk)):
                    progress.advance(task)
                    if isinstance(answer, Reconstruction):
                        found.append(answer)
                    else:
                        console.print(Text(answer, "yellow"), soft_wrap=True)
    return found


async def _ask(
    stub: reconstruction_pb2_grpc.ReconstructionServiceStub,
    event: Event | UnreadableEvent,
    model: str,
    address: str,
) -> Reconstruction | str:
    if isinstance(event, UnreadableEvent):
        return str(event.error)
    request = reconstruction_pb2.ReconstructRequest(event=event_to_message(event), model=model)
    try:
        reply = await stub.Reconstruct(request, timeout=_PATIENCE_S)
    except grpc.aio.AioRpcError as error:
        if (refusal := access().refusal(error, address)) is not None:
            raise refusal from error
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            raise Unavailable(
                f"no router answers ({error.details()}); start one with `icestream up`"
            ) from error
        return f"event {event.id}: {error.code().name}: {error.details()}"
    return reconstruction_from_message(reply.reconstruction)


def _show(reconstructions: list[Reconstruction], online: OnlineTracks) -> None:
    # Names of events are there to be copied, so that they stay whole in 80 columns too.
    event, *others = COLUMNS
    table = Table(Column(event, no_wrap=True), *others, *(["off online"] if online else []))
    for reconstruction in reconstructions[:_ROWS_SHOWN]:
        track = online.get(reconstruction.event_id)
        table.add_row(
            *cells(reconstruction), *([] if track is None else [f"{_off_deg(reconstruction, track):.1f}°"])
        )
    console = Console()
    console.print(table)
    if (n_more := len(reconstructions) - _ROWS_SHOWN) > 0:
        console.print(f"... and {n_more} more; --submission FILE writes all")
    errors_rad = [error for row in reconstructions if (error := error_rad(row)) is not None]
    if errors_rad:
        median, mean = np.degrees([np.median(errors_rad), np.mean(errors_rad)])
        console.print(f"opening angle to the true direction: median {median:.1f}°, mean {mean:.1f}°")
    offs_deg = [_off_deg(row, online[row.event_id]) for row in reconstructions if row.event_id in online]
    if offs_deg:
        names = ", ".join(sorted({track.name for track in online.values()}))
        console.print(f"opening angle to the online track ({names}): median {np.median(offs_deg):.1f}°")


def _off_deg(reconstruction: Reconstruction, track: StoredReconstruction) -> float:
    return float(np.degrees(opening_angles_rad(reconstruction.estimate.direction, track.direction)))


def _write_submission(path: Path, reconstructions: list[Reconstruction]) -> None:
    azimuths, zeniths = angles(np.array([row.estimate.direction for row in reconstructions]).reshape(-1, 3))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("event_id", "azimuth", "zenith"))
        for row, azimuth, zenith in zip(reconstructions, azimuths.tolist(), zeniths.tolist(), strict=True):
            writer.writerow((row.event_id.event_id, azimuth, zenith))
