"""`icestream watch`: reconstructions as they come, from their NATS subject."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Annotated

import typer
from google.protobuf import json_format
from opentelemetry.trace import Tracer

from icestream.cli.access import access
from icestream.cli.directions_table import COLUMNS, cells
from icestream.cli.target import (
    DEFAULT_DIRECTORY,
    DirectoryOption,
    NatsOption,
    PrefixOption,
    nats_url,
    otlp_endpoint,
)
from icestream.codec import decode_reconstruction
from icestream.runtime.jetstream.stored import StoredMessage, new_messages
from icestream.runtime.jetstream.topology import DEFAULT_PREFIX, Names
from icestream.runtime.lifecycle import ended_by_signals
from icestream.runtime.message_spans import start_process_span
from icestream.runtime.tracing import end_span, tracing
from icestream.v1 import reconstruction_pb2

_LINE = "{:<16} {:>8} {:>8} {:>12} {:>12} {:>12} {:>10}"


def watch(
    directory: DirectoryOption = DEFAULT_DIRECTORY,
    nats: NatsOption = None,
    prefix: PrefixOption = DEFAULT_PREFIX,
    events: Annotated[int | None, typer.Option(help="Stop after so many.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,  # noqa: FBT002
) -> None:
    """Show reconstructions as they come; Ctrl-C ends it."""
    if not as_json:
        typer.echo(_LINE.format(*COLUMNS))
    show = _json_line if as_json else _line
    with tracing("icestream-watch", "watch", otlp_endpoint(directory)) as traces:
        asyncio.run(_watch(nats_url(directory, nats), Names(prefix), events, _Shown(show, traces.tracer)))


class _Shown:
    """Shows a message; where it is sampled, its trace says so."""

    def __init__(self, show: Callable[[StoredMessage], str], tracer: Tracer) -> None:
        self._show = show
        self._tracer = tracer

    def __call__(self, message: StoredMessage) -> None:
        end_span(start_process_span(self._tracer, message.headers, message.subject))
        typer.echo(self._show(message))


async def _watch(url: str, names: Names, limit: int | None, show: Callable[[StoredMessage], None]) -> None:
    with ended_by_signals():
        async with access().nats(url, name="icestream-watch") as connection:
            messages = new_messages(connection, names.everything_in("reconstructions"))
            async with aclosing(messages):
                n_shown = 0
                while limit is None or n_shown < limit:
                    show(await anext(messages))
                    n_shown += 1


def _line(message: StoredMessage) -> str:
    return _LINE.format(*cells(decode_reconstruction(message.payload)))


def _json_line(message: StoredMessage) -> str:
    reconstruction = reconstruction_pb2.Reconstruction.FromString(message.payload)
    return json_format.MessageToJson(reconstruction, indent=None, preserving_proto_field_name=True)
