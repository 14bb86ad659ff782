"""`icestream demo`: the main job on a stack of its own, with a verdict."""

import asyncio
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from icestream.cli.demo_report import DemoReport, table_of
from icestream.cli.demo_run import DemoOptions, run_demo
from icestream.runtime.endpoints import Endpoints
from icestream.runtime.logs import configure_logs


def demo(
    events: Annotated[int, typer.Option(min=1, help="How many events.")] = 2000,
    rate: Annotated[
        float | None, typer.Option(help="Events/s; as fast as possible without.", show_default=False)
    ] = None,
    dataset: Annotated[
        Path | None,
        typer.Option(help="A data set in the Kaggle format; simulated without.", show_default=False),
    ] = None,
    trace_ratio: Annotated[float, typer.Option(min=0, max=1, help="Share of events that are traced.")] = 0.01,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,  # noqa: FBT002
) -> None:
    """Start a stack, send events through it, check every result, show what came out, and stop it.

    Exits with 0 only when every event that was published came back exactly once, or sits in the dead letters
    with a reason.
    """
    configure_logs("icestream", "demo", level="warning" if as_json else "info", log_format="console")
    directory = Path(tempfile.mkdtemp(prefix="icestream-demo-"))
    options = DemoOptions(directory, Endpoints.free(), events, rate, dataset, trace_ratio)
    report = asyncio.run(run_demo(options))
    if report is None:
        shutil.rmtree(directory, ignore_errors=True)
        raise typer.Exit(130)
    _show(report, as_json=as_json)
    if not report.is_complete:
        Console(stderr=True).print(f"[red]not every event came back exactly once[/]; logs: {directory}/logs")
        raise typer.Exit(1)
    shutil.rmtree(directory, ignore_errors=True)


def _show(report: DemoReport, *, as_json: bool) -> None:
    if as_json:
        json.dump(report.as_json(), sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        Console().print(table_of(report))
