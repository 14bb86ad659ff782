"""Who is there: the services whose heartbeats are heard, wherever they run."""

import asyncio
from dataclasses import dataclass
from time import monotonic

from rich.table import Table
from rich.text import Text

from icestream.runtime.jetstream.connection import Connection
from icestream.runtime.jetstream.heartbeats import INTERVAL_S, STOPPING, Heartbeat, listen
from icestream.runtime.jetstream.topology import Names

LISTEN_S = INTERVAL_S + 1.0
"""Long enough for one heartbeat of everybody; the second is for a busy machine."""

_COLOURS = {"running": "green", STOPPING: "red"}


@dataclass(frozen=True, slots=True)
class Heard:
    """The last that was heard of one instance."""

    heartbeat: Heartbeat
    age_s: float
    """Since it came, by our clock: that of the service may be another."""


async def services_heard(connection: Connection, names: Names, *, listen_s: float = LISTEN_S) -> list[Heard]:
    """Listen for a while; one entry for each instance, sorted by service and instance."""
    last: dict[tuple[str, str], tuple[Heartbeat, float]] = {}

    def on_heartbeat(heartbeat: Heartbeat) -> None:
        last[heartbeat.service, heartbeat.instance] = heartbeat, monotonic()

    async with listen(connection, names, on_heartbeat):
        await asyncio.sleep(listen_s)
    now_s = monotonic()
    return [Heard(heartbeat, now_s - at_s) for _, (heartbeat, at_s) in sorted(last.items())]


def services_table(heard: list[Heard]) -> Table:
    """A row for each of them."""
    table = Table("service", "instance", "version", "state", "heard")
    for one in heard:
        beat = one.heartbeat
        # Whatever came over the network is no markup.
        state = Text(beat.state, _COLOURS.get(beat.state, "yellow"))
        names = map(Text, (beat.service, beat.instance, beat.version))
        table.add_row(*names, state, f"{one.age_s:.1f} s ago")
    return table
