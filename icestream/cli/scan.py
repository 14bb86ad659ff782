"""`icestream scan`: the sky of one event, pixel by pixel."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from icestream.cli.access import access
from icestream.cli.scan_event import DatasetEvent, PublishedEvent, choose_event
from icestream.cli.scan_following import Followed, follow, watch_to_end
from icestream.cli.scan_options import scan_options
from icestream.cli.scan_progress import ScanBar
from icestream.cli.scan_service import ENDED, AddressOption, ScanService, scanner_address
from icestream.cli.target import DEFAULT_DIRECTORY, DirectoryOption
from icestream.codec import event_to_message
from icestream.errors import DeadlineExceeded, InvalidInput
from icestream.physics.events import Truth
from icestream.readers.realtime import StoredReconstruction
from icestream.runtime.local_stack import CHECKOUT
from icestream.scans.skymap import Skymap
from icestream.v1 import scan_pb2

INCOMPLETE_STATUS = 3
"""Exit status of a scan whose map has holes."""
INTERRUPTED_STATUS = 130

OutOption = Annotated[
    Path | None,
    typer.Option(help="Folder for the result files; scans/<scan id> by default.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
TimeoutOption = Annotated[
    float | None, typer.Option(min=0, help="Wait at most so many seconds for the end.", show_default=False)
]


def scan(
    event: Annotated[
        str,
        typer.Argument(
            help="Folder of a data set, an IceCube realtime message or a folder of those, "
            "or <detector>/<run>.<event>.<sub> of a published event."
        ),
    ],
    directory: DirectoryOption = DEFAULT_DIRECTORY,
    address: AddressOption = None,
    event_index: Annotated[
        int | None, typer.Option(min=0, help="Which event of the data set, from 0.", show_default=False)
    ] = None,
    event_id: Annotated[
        str | None, typer.Option(help="The same, as <event> or <run>.<event>.", show_default=False)
    ] = None,
    detector: Annotated[str, typer.Option(help="Name of the data set's detector.")] = "icecube86",
    reco: Annotated[str, typer.Option(help="How to fit; `icestream scans recos` shows what there is.")] = "",
    nsides: Annotated[
        str | None,
        typer.Option(
            help="Resolutions and how many coarser pixels each refines; 8:0,64:12,512:24 by default.",
            show_default=False,
        ),
    ] = None,
    pointing: Annotated[
        str | None,
        typer.Option(help="RA,DEC[,RADIUS] in degrees: scan only there.", show_default=False),
    ] = None,
    pointing_detector: Annotated[
        str | None,
        typer.Option(help="AZIMUTH,ZENITH[,RADIUS] in degrees: scan only there.", show_default=False),
    ] = None,
    predictive_threshold: Annotated[
        float, typer.Option(help="Share of a level that must be there before the next one begins.")
    ] = 1.0,
    priority: Annotated[int, typer.Option(help="100 and more are alerts, which overtake all others.")] = 0,
    classifier: Annotated[
        list[str] | None, typer.Option(help="Label <key>=<value>; may be repeated.", show_default=False)
    ] = None,
    request_id: Annotated[
        str | None,
        typer.Option(help="The same id never starts a second scan; it shows the first.", show_default=False),
    ] = None,
    local: Annotated[bool, typer.Option("--local", help="Scan here, without any server.")] = False,  # noqa: FBT002
    model_repository: Annotated[
        Path | None,
        typer.Option(help="Models for --local; the checkout's by default.", show_default=False),
    ] = None,
    timeout: TimeoutOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Map the likelihood of an event's direction over the sky, and write maps, contours and plots.

    The scan service does it with all of its workers, and goes on when you leave with Ctrl-C.
    With --local this process does it, and needs no server.

    Exits with 0 for a complete map, 3 for one with holes, 1 for an error.
    """
    options = scan_options(
        reco=reco,
        nsides=nsides,
        priority=priority,
        pointing=pointing,
        pointing_detector=pointing_detector,
        predictive_threshold=predictive_threshold,
        classifiers=classifier or [],
    )
    chosen = choose_event(event, detector=detector, event_index=event_index, event_id=event_id)
    if isinstance(chosen, DatasetEvent):
        chosen.say_if_not_chosen("scanning")
    if local:
        followed = _scan_here(chosen, options, model_repository or CHECKOUT / "model_repository", timeout)
    else:
        service_address = scanner_address(directory, address)
        followed = _scan_by_service(_request(chosen, options, request_id), service_address, timeout)
        leave_if_it_goes_on(followed, directory, address)
    if followed.scan is None or followed.skymap is None:
        raise typer.Exit(INTERRUPTED_STATUS)
    directory = out or Path("scans") / followed.scan.scan_id
    if isinstance(chosen, DatasetEvent):
        online = None if chosen.message is None else chosen.message.online_track
        finish(followed, directory, truth=chosen.event.truth, online=online, as_json=as_json)
    else:
        finish(followed, directory, as_json=as_json)


def leave_if_it_goes_on(followed: Followed, directory: Path, address: str | None) -> None:
    """Where we left before the scan's end, say how to come back, and exit."""
    if followed.skymap is not None:
        return
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if followed.scan is None:
        console.print("the scan was not accepted yet; `icestream scans list` shows whether it was after all")
    else:
        scan_id = followed.scan.scan_id
        flags = f" --address {address}" if address else ""
        flags += f" --dir {directory}" if not address and directory != DEFAULT_DIRECTORY else ""
        for line in (
            f"scan {scan_id} {'has ended' if followed.scan.state in ENDED else 'goes on without us'}",
            f"icestream scans watch {scan_id}{flags} --out scans/{scan_id}   # shows it, then writes its map",
            f"icestream scans cancel {scan_id}{flags}   # ends it",
        ):
            console.print(line, markup=False)
    raise typer.Exit(1 if followed.is_late else INTERRUPTED_STATUS)


def finish(
    followed: Followed,
    directory: Path | None,
    *,
    truth: Truth | None = None,
    online: StoredReconstruction | None = None,
    as_json: bool,
) -> None:
    """Write the files of a scan that has ended, show its report and exit with the status that it deserves."""
    # Plots and FITS take seconds to import, which no other command should wait for.
    from icestream.cli.scan_report import report_of, table_of  # noqa: PLC0415

    assert followed.scan is not None
    assert followed.skymap is not None
    report = report_of(followed.scan, followed.skymap, truth=truth, online=online, directory=directory)
    if as_json:
        json.dump(report.as_json(), sys.stdout, indent=2, allow_nan=False)
        sys.stdout.write("\n")
    else:
        console = Console(highlight=False, soft_wrap=True)
        console.print(table_of(report))
        for path in report.files:
            console.print(str(path), markup=False)
    if not report.summary.is_complete:
        raise typer.Exit(INCOMPLETE_STATUS)


def _request(
    chosen: DatasetEvent | PublishedEvent, options: scan_pb2.ScanOptions, request_id: str | None
) -> scan_pb2.StartScanRequest:
    request = scan_pb2.StartScanRequest(options=options, request_id=request_id or "")
    if isinstance(chosen, DatasetEvent):
        request.event.CopyFrom(event_to_message(chosen.event))
    else:
        request.event_name = str(chosen)
    return request


def _scan_by_service(request: scan_pb2.StartScanRequest, address: str, timeout_s: float | None) -> Followed:
    async def work(bar: ScanBar) -> Skymap:
        async with ScanService(address, access()) as service:
            response = await service.start(request)
            known = "" if response.is_new else ", which this request started before"
            bar.say(f"scan {response.scan.scan_id}{known}")
            return await watch_to_end(service, response.scan, bar)

    return follow(work, timeout_s)


def _scan_here(
    chosen: DatasetEvent | PublishedEvent,
    options: scan_pb2.ScanOptions,
    model_repository: Path,
    timeout_s: float | None,
) -> Followed:
    # What knows the Earth's rotation, and numba, is slow to import as well.
    from icestream.cli.scan_local import scan_locally  # noqa: PLC0415

    if isinstance(chosen, PublishedEvent):
        raise InvalidInput(f"{chosen} is in the stack's stream of events; --local scans events of data sets")
    detector = chosen.read_detector()
    followed = follow(
        lambda bar: scan_locally(chosen.event, detector, options, model_repository, bar.show), timeout_s
    )
    if followed.is_late:
        raise DeadlineExceeded(f"the scan did not end within {timeout_s:g} s; nothing of it is left")
    return followed
