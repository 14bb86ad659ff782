"""Which stack a command talks to: the one that `icestream up` started here, or one that flags name."""

import os
from pathlib import Path
from typing import Annotated

import typer

from icestream.runtime.endpoints import LOOPBACK, Endpoints, Stack

DEFAULT_DIRECTORY = Path(".icestream")

DirectoryOption = Annotated[
    Path, typer.Option("--dir", help="Folder of the local stack: its state, its logs and stack.json.")
]
NatsOption = Annotated[
    str | None, typer.Option("--nats", help="URL of NATS; by default the local stack's.", show_default=False)
]
RouterOption = Annotated[
    str | None,
    typer.Option(
        "--router", help="host:port of a router's gRPC; by default the local stack's.", show_default=False
    ),
]
PrefixOption = Annotated[str, typer.Option("--prefix", help="First token of every subject.")]


def endpoints_in(directory: Path) -> Endpoints:
    """Where the stack of this folder listens; the default ports where there is none."""
    stack = Stack.read(directory)
    return stack.endpoints if stack else Endpoints()


def nats_url(directory: Path, given: str | None) -> str:
    """The URL that was given, or the local stack's."""
    return given or endpoints_in(directory).nats_url


def router_address(directory: Path, given: str | None) -> str:
    """The address that was given, or the local stack's."""
    return given or f"{LOOPBACK}:{endpoints_in(directory).router_grpc}"


def otlp_endpoint(directory: Path) -> str | None:
    """Where spans go: what the environment says, or the local stack's Jaeger."""
    given = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    stack = Stack.read(directory)
    return given or (stack.endpoints.otlp_url if stack is not None and stack.is_traced else None)
