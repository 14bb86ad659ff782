"""`icestream deadletters`: look at what could not be processed, try it again, or throw it away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from icestream.cli.access import access
from icestream.cli.target import DEFAULT_DIRECTORY, DirectoryOption, NatsOption, PrefixOption, nats_url
from icestream.errors import InvalidInput
from icestream.runtime.deadletters import DeadLetterBox, StoredDeadLetter
from icestream.runtime.jetstream.connection import Connection
from icestream.runtime.jetstream.publisher import WindowedPublisher
from icestream.runtime.jetstream.topology import DEFAULT_PREFIX, Names

app = typer.Typer(help="Events that could not be reconstructed, with the reason.", no_args_is_help=True)

Numbers = Annotated[
    list[int] | None, typer.Argument(help="Numbers as `list` shows them.", show_default=False)
]
AllOption = Annotated[bool, typer.Option("--all", help="Every dead letter.")]


@app.command("list")
def list_letters(
    directory: DirectoryOption = DEFAULT_DIRECTORY,
    nats: NatsOption = None,
    prefix: PrefixOption = DEFAULT_PREFIX,
) -> None:
    """Show all dead letters, the oldest first."""
    asyncio.run(_list(nats_url(directory, nats), Names(prefix)))


@app.command()
def show(
    number: Annotated[int, typer.Argument(help="As `list` shows it.")],
    directory: DirectoryOption = DEFAULT_DIRECTORY,
    nats: NatsOption = None,
    prefix: PrefixOption = DEFAULT_PREFIX,
    save: Annotated[
        Path | None, typer.Option(help="Write the original message to this file.", show_default=False)
    ] = None,
) -> None:
    """Show everything that is known of one dead letter."""
    stored = asyncio.run(_get(nats_url(directory, nats), Names(prefix), number))
    Console().print(_facts(stored))
    if save is not None:
        save.write_bytes(stored.letter.payload)


@app.command()
def replay(
    numbers: Numbers = None,
    everything: AllOption = False,  # noqa: FBT002
    directory: DirectoryOption = DEFAULT_DIRECTORY,
    nats: NatsOption = None,
    prefix: PrefixOption = DEFAULT_PREFIX,
) -> None:
    """Send the original messages once more, and forget the letters."""
    asyncio.run(_replay(nats_url(directory, nats), Names(prefix), _choice(numbers, everything)))


@app.command()
def purge(
    numbers: Numbers = None,
    everything: AllOption = False,  # noqa: FBT002
    directory: DirectoryOption = DEFAULT_DIRECTORY,
    nats: NatsOption = None,
    prefix: PrefixOption = DEFAULT_PREFIX,
) -> None:
    """Throw dead letters away for good."""
    asyncio.run(_purge(nats_url(directory, nats), Names(prefix), _choice(numbers, everything)))


def _choice(numbers: list[int] | None, everything: bool) -> list[int] | None:  # noqa: FBT001
    """The chosen numbers; None for all."""
    if bool(numbers) == everything:
        raise InvalidInput("say which dead letters: their numbers, or --all")
    return numbers or None


@asynccontextmanager
async def _box(url: str, names: Names) -> AsyncIterator[tuple[Connection, DeadLetterBox]]:
    async with access().nats(url, name="icestream-deadletters") as connection:
        yield connection, DeadLetterBox(connection, names)


async def _list(url: str, names: Names) -> None:
    table = Table("number", "event", "service", "from", "reason", "deliveries", "since (UTC)", "problem")
    async with _box(url, names) as (_, box):
        async for stored in box.letters():
            letter = stored.letter
            table.add_row(
                str(stored.sequence),
                _text(letter.event_id or "?"),
                _text(letter.service),
                _text(letter.subject or "never published"),
                _text(letter.reason),
                str(letter.n_deliveries),
                _utc(stored),
                _text(letter.problem),
            )
    Console().print(table if table.row_count else "no dead letters")


async def _get(url: str, names: Names, number: int) -> StoredDeadLetter:
    async with _box(url, names) as (_, box):
        return await box.get(number)


def _facts(stored: StoredDeadLetter) -> Table:
    letter = stored.letter
    table = Table(show_header=False)
    table.add_row("event", _text(letter.event_id or "?"))
    table.add_row("reason", _text(letter.reason))
    table.add_row("problem", _text(letter.problem))
    table.add_row("given up by", _text(letter.service))
    table.add_row("given up at (UTC)", _utc(stored))
    table.add_row("deliveries", str(letter.n_deliveries))
    table.add_row("subject", _text(letter.subject or "never published"))
    table.add_row("message id", _text(letter.message_id))
    table.add_row("stream sequence", str(letter.sequence))
    table.add_row("trace", _text((letter.traceparent or "")[3:35] or "not sampled"))
    table.add_row("message", f"{len(letter.payload)} bytes")
    return table


async def _replay(url: str, names: Names, numbers: list[int] | None) -> None:
    async with _box(url, names) as (connection, box), WindowedPublisher(connection) as publisher:
        n_sent = 0
        for stored in await _chosen(box, numbers):
            if numbers is None and not stored.letter.subject:
                # It never was a message: --all means all that can be sent.
                continue
            try:
                await box.replay(stored, publisher)
            except InvalidInput as refusal:
                if numbers is not None:
                    raise
                Console(stderr=True).print(_text(f"not sent: {refusal}"), soft_wrap=True)
            else:
                n_sent += 1
    Console().print(f"{n_sent} sent again")


async def _purge(url: str, names: Names, numbers: list[int] | None) -> None:
    async with _box(url, names) as (_, box):
        chosen = await _chosen(box, numbers)
        for stored in chosen:
            await box.forget(stored.sequence)
    Console().print(f"{len(chosen)} thrown away")


async def _chosen(box: DeadLetterBox, numbers: list[int] | None) -> list[StoredDeadLetter]:
    if numbers is None:
        return [stored async for stored in box.letters()]
    return [await box.get(number) for number in numbers]


def _text(said: str) -> Text:
    """What a letter says, as it is: whoever wrote it is to give our terminal no orders."""
    return Text("".join(each if each.isprintable() else "?" for each in said))


def _utc(stored: StoredDeadLetter) -> str:
    return datetime.fromtimestamp(stored.stored_unix_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")
