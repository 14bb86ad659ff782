"""`icestream scans`: the scans that there are, and the ways to make one."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar, cast

import typer
from google.protobuf import json_format
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from icestream.cli.access import access
from icestream.cli.scan import JsonOption, TimeoutOption, finish, leave_if_it_goes_on
from icestream.cli.scan_following import follow, watch_to_end
from icestream.cli.scan_options import labels
from icestream.cli.scan_progress import ScanBar, state_name
from icestream.cli.scan_service import AddressOption, ScanService, scanner_address
from icestream.cli.scan_tables import facts_table, levels_table, list_table
from icestream.cli.target import DEFAULT_DIRECTORY, DirectoryOption, endpoints_in
from icestream.errors import IceStreamError, InvalidInput
from icestream.physics.events import EventId
from icestream.runtime.endpoints import LOOPBACK
from icestream.runtime.local_stack import CHECKOUT
from icestream.runtime.onnx_models import model_names
from icestream.runtime.triton import TritonModel
from icestream.scans.skymap import Skymap
from icestream.v1 import scan_pb2

app = typer.Typer(help="Sky scans of the scan service, and the recos to scan with.", no_args_is_help=True)

Answer = TypeVar("Answer")
ScanId = Annotated[str, typer.Argument(help="As `list` shows it.")]
LinesOption = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


class State(StrEnum):
    """States of scans, as flags name them."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    CANCELLED = "cancelled"

    @property
    def message(self) -> scan_pb2.ScanState:
        """As the protocol names it."""
        return cast("scan_pb2.ScanState", scan_pb2.ScanState.Value(f"SCAN_STATE_{self.name}"))


@app.command("list")
def list_scans(
    directory: DirectoryOption = DEFAULT_DIRECTORY,
    address: AddressOption = None,
    state: Annotated[
        list[State] | None, typer.Option(help="Only in this state; may be repeated.", show_default=False)
    ] = None,
    event: Annotated[
        str | None, typer.Option(help="Only of this <run>.<event>[.<sub>].", show_default=False)
    ] = None,
    classifier: Annotated[
        list[str] | None,
        typer.Option(help="Only with this label <key>=<value>; may be repeated.", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 50,
    as_json: LinesOption = False,  # noqa: FBT002
) -> None:
    """Show the scans, the newest first."""
    request = scan_pb2.ListScansRequest(
        states=[each.message for each in state or ()],
        classifiers=labels(classifier or []),
        event_id=_event_id(event),
    )
    scans = _ask(scanner_address(directory, address), lambda service: service.scans(request, limit))
    if as_json:
        for scan in scans:
            _print_line(scan)
    else:
        Console().print(list_table(scans, time.time_ns()) if scans else "no scans")


@app.command()
def show(
    scan_id: ScanId,
    directory: DirectoryOption = DEFAULT_DIRECTORY,
    address: AddressOption = None,
    as_json: LinesOption = False,  # noqa: FBT002
) -> None:
    """Show everything that is known of one scan."""
    scan = _ask(scanner_address(directory, address), lambda service: service.get(scan_id))
    if as_json:
        _print_line(scan)
    else:
        Console().print(Group(facts_table(scan), levels_table(scan)))


@app.command()
def watch(
    scan_id: ScanId,
    directory: DirectoryOption = DEFAULT_DIRECTORY,
    address: AddressOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the result files to this folder.", show_default=False)
    ] = None,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Follow a scan to its end and show the result; exits as `icestream scan` does."""
    service_address = scanner_address(directory, address)

    async def work(bar: ScanBar) -> Skymap:
        async with ScanService(service_address, access()) as service:
            return await watch_to_end(service, await service.get(scan_id), bar)

    followed = follow(work, timeout)
    leave_if_it_goes_on(followed, directory, address)
    finish(followed, out, as_json=as_json)


@app.command()
def cancel(
    scan_id: ScanId,
    directory: DirectoryOption = DEFAULT_DIRECTORY,
    address: AddressOption = None,
) -> None:
    """End a scan early; what is finished of its map stays."""
    scan = _ask(scanner_address(directory, address), lambda service: service.cancel(scan_id))
    Console().print(f"scan {scan.scan_id} is {state_name(scan.state)}", markup=False)


@app.command()
def recos(
    directory: DirectoryOption = DEFAULT_DIRECTORY,
    model_repository: Annotated[
        Path | None, typer.Option(help="Models for --local; the checkout's by default.", show_default=False)
    ] = None,
) -> None:
    """Show how pixels can be fitted, and whether the models for it are there."""
    # Recos bring numba along, which takes seconds that no other command should wait for.
    from icestream.scans.recos.registry import installed_recos  # noqa: PLC0415

    served = asyncio.run(_served(f"{LOOPBACK}:{endpoints_in(directory).triton_grpc}"))
    present = model_names(model_repository or CHECKOUT / "model_repository")
    table = Table("reco", "what it does", "hypotheses", "fits a pixel", "models")
    for name, reco in sorted(installed_recos().items()):
        table.add_row(
            Text(name),
            Text(_first_line(reco)),
            Text(", ".join(reco.hypotheses)),
            str(len(reco.offsets_m)),
            Text("\n".join(_model_state(model, served, present) for model in reco.models) or "needs none"),
        )
    Console().print(table)


def _ask(address: str, question: Callable[[ScanService], Awaitable[Answer]]) -> Answer:
    async def ask() -> Answer:
        async with ScanService(address, access()) as service:
            return await question(service)

    return asyncio.run(ask())


def _event_id(text: str | None) -> str:
    if text is None:
        return ""
    try:
        return str(EventId.parse(text))
    except ValueError as error:
        raise InvalidInput(f"--event: {error}") from error


def _print_line(scan: scan_pb2.Scan) -> None:
    typer.echo(json_format.MessageToJson(scan, indent=None, preserving_proto_field_name=True))


async def _served(address: str) -> list[str] | None:
    """What Triton serves; None where it does not answer."""
    async with TritonModel(address) as triton:
        try:
            return await triton.model_names()
        except IceStreamError:
            return None


def _model_state(model: str, served: Sequence[str] | None, present: Sequence[str]) -> str:
    by_triton = "no Triton answers" if served is None else "served" if model in served else "not served"
    return f"{model}: {by_triton}, {'present' if model in present else 'not present'} for --local"


def _first_line(reco: object) -> str:
    return (type(reco).__doc__ or "").strip().partition("\n")[0]
