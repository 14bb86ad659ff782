"""`icestream secrets`: keys, certificates and tokens of a deployment in which not everybody is trusted."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from icestream.runtime.secret_files import SecretFile, new_secrets, write_secrets

app = typer.Typer(help="Keys, certificates and tokens of a deployment.", no_args_is_help=True)

HostOption = Annotated[
    list[str] | None,
    typer.Option(
        "--host",
        help="Name or address that clients reach NATS and the services by; may be given several times. localhost and "
        "the names in compose are always there.",
        show_default=False,
    ),
]


@app.callback()
def secrets() -> None:
    """Keys, certificates and tokens of a deployment."""


@app.command()
def create(
    directory: Annotated[
        Path, typer.Argument(help="Folder to put them in; nothing in it is overwritten.", show_default=False)
    ],
    host: HostOption = None,
) -> None:
    """Make everything that NATS, the services and their clients need to know and to trust each other."""
    files = new_secrets(host or [])
    write_secrets(directory, files)
    console = Console()
    console.print(_table(files))
    console.print(f"written to {directory}, which is for your eyes alone", soft_wrap=True)
    console.print("docs/deployment.md#security says where each goes", soft_wrap=True)


def _table(files: list[SecretFile]) -> Table:
    table = Table("file", "what it is", "for")
    table.columns[0].no_wrap = True
    for file in files:
        table.add_row(str(file.path), file.meaning, file.holder)
    return table
