"""`icestream records`: what was reconstructed, how well, and all of it as a file."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from google.protobuf import json_format
from google.protobuf.message import Message
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

from icestream.cli.access import access
from icestream.cli.records_options import (
    AfterOption,
    BeforeOption,
    ConeOption,
    DetectorOption,
    KappaOption,
    KindOption,
    ModelOption,
    RadiusOption,
    RunOption,
    VersionOption,
    filter_of,
)
from icestream.cli.records_service import PATIENCE_S, AddressOption, RecordService, recorder_address
from icestream.cli.records_tables import (
    dead_letters_table,
    facts_table,
    list_table,
    quality_table,
    scans_table,
)
from icestream.cli.target import DEFAULT_DIRECTORY, DirectoryOption
from icestream.errors import IceStreamError, InvalidInput
from icestream.physics.events import EventId
from icestream.v1 import record_pb2

app = typer.Typer(help="Everything that was ever reconstructed, and how well.", no_args_is_help=True)

Answer = TypeVar("Answer")
LinesOption = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


@app.command("list")
def list_records(
    directory: DirectoryOption = DEFAULT_DIRECTORY,
    address: AddressOption = None,
    detector: DetectorOption = "",
    run: RunOption = None,
    after: AfterOption = None,
    before: BeforeOption = None,
    cone: ConeOption = None,
    model: ModelOption = "",
    model_version: VersionOption = "",
    max_radius90: RadiusOption = None,
    min_kappa: KappaOption = None,
    kind: KindOption = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the latest.")] = 50,
    as_json: LinesOption = False,  # noqa: FBT002
) -> None:
    """Show reconstructions, the latest events first."""
    wanted = filter_of(
        detector=detector, run=run, after=after, before=before, cone=cone, model=model,
        model_version=model_version, max_radius90=max_radius90, min_kappa=min_kappa, kind=kind,
    )  # fmt: skip

    async def ask(service: RecordService) -> list[record_pb2.RecordedReconstruction]:
        pages = service.pages(wanted, limit, _telling(Console(stderr=True)))
        return [record async for page in pages for record in page]

    records = _ask(recorder_address(directory, address), ask)
    if as_json:
        for record in records:
            _print_line(record)
    else:
        Console().print(list_table(records) if records else "no reconstructions")


@app.command()
def show(
    event: Annotated[str, typer.Argument(help="<detector>/<run>.<event>[.<sub>], as `list` shows it.")],
    directory: DirectoryOption = DEFAULT_DIRECTORY,
    address: AddressOption = None,
    model: ModelOption = "",
    model_version: VersionOption = "",
    as_json: LinesOption = False,  # noqa: FBT002
) -> None:
    """Show everything that is recorded of one event, by each model and version."""
    request = _name(event)
    request.model, request.model_version = model, model_version
    records = _ask(recorder_address(directory, address), lambda service: service.get(request))
    for record in records:
        if as_json:
            _print_line(record)
        else:
            Console().print(facts_table(record))


@app.command()
def stats(
    directory: DirectoryOption = DEFAULT_DIRECTORY,
    address: AddressOption = None,
    detector: DetectorOption = "",
    run: RunOption = None,
    after: AfterOption = None,
    before: BeforeOption = None,
    cone: ConeOption = None,
    model: ModelOption = "",
    model_version: VersionOption = "",
    max_radius90: RadiusOption = None,
    min_kappa: KappaOption = None,
    kind: KindOption = None,
    as_json: LinesOption = False,  # noqa: FBT002
) -> None:
    """Count reconstructions, dead letters and scans, and show how good the models are."""
    wanted = filter_of(
        detector=detector, run=run, after=after, before=before, cone=cone, model=model,
        model_version=model_version, max_radius90=max_radius90, min_kappa=min_kappa, kind=kind,
    )  # fmt: skip
    request = record_pb2.StatsRequest(filter=wanted)
    found = _ask(recorder_address(directory, address), lambda service: service.stats(request))
    if as_json:
        _print_line(found)
        return
    console = Console()
    console.print(f"{found.n_reconstructions} reconstructions, now {found.recorded_per_s:.3g} per second")
    for table in (quality_table(found), dead_letters_table(found), scans_table(found)):
        if table.row_count:
            console.print(table)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="The Parquet file to write.")],
    directory: DirectoryOption = DEFAULT_DIRECTORY,
    address: AddressOption = None,
    detector: DetectorOption = "",
    run: RunOption = None,
    after: AfterOption = None,
    before: BeforeOption = None,
    cone: ConeOption = None,
    model: ModelOption = "",
    model_version: VersionOption = "",
    max_radius90: RadiusOption = None,
    min_kappa: KappaOption = None,
    kind: KindOption = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many, the latest.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Say what was written as JSON.")] = False,  # noqa: FBT002
) -> None:
    """Write reconstructions to a Parquet file, the latest events first."""
    # It takes a quarter of a second to load, which no other command should wait for.
    from icestream.cli import records_export  # noqa: PLC0415

    wanted = filter_of(
        detector=detector, run=run, after=after, before=before, cone=cone, model=model,
        model_version=model_version, max_radius90=max_radius90, min_kappa=min_kappa, kind=kind,
    )  # fmt: skip

    async def write(service: RecordService) -> int:
        return await records_export.export(service.pages(wanted, limit, _telling(bar.console)), file)

    with Progress(
        SpinnerColumn(), TextColumn("writing {task.description}"), console=Console(stderr=True)
    ) as bar:
        bar.add_task(str(file))
        n_rows = _ask(recorder_address(directory, address), write)
    if as_json:
        typer.echo(json.dumps({"file": str(file), "n_reconstructions": n_rows}))
    else:
        Console().print(f"{n_rows} reconstructions are in {file}", markup=False, soft_wrap=True)


def _ask(address: str, question: Callable[[RecordService], Awaitable[Answer]]) -> Answer:
    async def ask() -> Answer:
        async with RecordService(address, access()) as service:
            return await question(service)

    return asyncio.run(ask())


def _telling(console: Console) -> Callable[[IceStreamError], None]:
    """Says why a page is not there yet."""
    return lambda failure: console.print(
        f"{failure}; trying again for {PATIENCE_S:.0f} s", markup=False, highlight=False, soft_wrap=True
    )


def _name(text: str) -> record_pb2.GetReconstructionRequest:
    detector, _, event = text.rpartition("/")
    try:
        event_id = EventId.parse(event)
        request = record_pb2.GetReconstructionRequest(
            detector=detector,
            run_id=event_id.run_id,
            event_id=event_id.event_id,
            sub_event=event_id.sub_event,
        )
    except ValueError as error:
        raise InvalidInput(f"{text!r}: {error}") from error
    if not detector:
        raise InvalidInput(
            f"{text!r} names no detector; write <detector>/<run>.<event>, for example icecube86/{text}"
        )
    return request


def _print_line(message: Message) -> None:
    typer.echo(json_format.MessageToJson(message, indent=None, preserving_proto_field_name=True))
