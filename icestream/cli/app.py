"""Puts the commands together; each has a module of its own."""

import sys

import typer
from rich.console import Console
from rich.text import Text

from icestream.cli import (
    deadletters,
    demo,
    emit,
    event,
    reconstruct,
    records,
    scan,
    scans,
    secrets,
    simulate,
    status,
    trace,
    up,
    watch,
)
from icestream.cli.access import access_options
from icestream.errors import IceStreamError

app = typer.Typer(
    name="icestream",
    help="Neutrino event reconstruction as a service. Start with `icestream demo`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.callback()(access_options)
app.command("up")(up.up)
app.command("status")(status.status)
app.command("demo")(demo.demo)
app.command("simulate")(simulate.simulate)
app.command("emit", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(emit.emit)
app.command("reconstruct")(reconstruct.reconstruct)
app.command("watch")(watch.watch)
app.command("trace")(trace.trace)
app.command("scan")(scan.scan)
app.add_typer(scans.app, name="scans")
app.add_typer(event.app, name="event")
app.add_typer(records.app, name="records")
app.add_typer(deadletters.app, name="deadletters")
app.add_typer(secrets.app, name="secrets")


def main() -> None:
    """Run the command; an expected failure is one clear line and status 1."""
    try:
        app()
    except IceStreamError as error:
        text = Text.assemble(("icestream:", "bold red"), f" {error}")
        Console(stderr=True, soft_wrap=True).print(text)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
