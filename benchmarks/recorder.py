"""How fast the recorder writes, against plain inserts: `python -m benchmarks.recorder`.

Into the same tables of the same database go (1) rows that are ready, one INSERT and one COMMIT each, which is the
reference; (2) rows that are ready, through the recorder's store, 1000 to a transaction; and (3) messages that wait in
JetStream, through a recorder as a process of its own: from its readiness to the acknowledgement of the last message.
The databases are real and durable: every commit waits for the disk. Repetitions take turns.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from subprocess import DEVNULL, Popen, run
from typing import Any

import numpy as np
from nats.js.errors import NotFoundError
from rich.console import Console
from rich.table import Table
from sqlalchemy import insert

from benchmarks.machine import this_machine
from icestream.codec import reconstructions_to_messages
from icestream.errors import StoreUnavailable
from icestream.physics.directions import unit_vectors
from icestream.physics.events import (
    Estimate,
    EventId,
    EventKind,
    ModelVersion,
    Reconstruction,
    Timings,
    Truth,
)
from icestream.runtime.endpoints import LOOPBACK, free_ports
from icestream.runtime.jetstream.connection import Connection, connect
from icestream.runtime.jetstream.publisher import WindowedPublisher
from icestream.runtime.jetstream.topology import (
    RECORDER_CONSUMER,
    Names,
    reconcile_stream,
    reconstructions_stream,
)
from services.recorder.database import database_url, open_writer
from services.recorder.migrate import migrate
from services.recorder.reconstruction_rows import Columns, reconstruction_columns
from services.recorder.schema import RECONSTRUCTIONS
from services.recorder.store import RecordStore

REFERENCE = "one INSERT a row"
STORE = "the store"
RECORDER = "the recorder"
RESULT_FILE = "recorder.json"

_NAMES = Names()
_BATCH_ROWS = 1000
_START_UNIX_NS = 1_767_225_600 * 10**9
_POLL_S = 0.02
_PATIENCE_S = 300.0


@dataclass(frozen=True, slots=True)
class Timing:
    """One run."""

    database: str
    way: str
    n_rows: int
    seconds: float

    @property
    def rows_per_s(self) -> float:
        """Rate of the whole run."""
        return self.n_rows / self.seconds


def main() -> None:
    """Measure by the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recorder", description=__doc__)
    parser.add_argument(
        "--rows", type=int, default=20_000, help="rows in bulk; the reference writes a fortieth"
    )
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/recorder"))
    parser.add_argument(
        "--postgresql",
        help="URL of an empty PostgreSQL database; without it one is started here, if installed",
    )
    arguments = parser.parse_args()
    console = Console()
    console.print(str(this_machine()))
    timings = asyncio.run(_measure(arguments.rows, arguments.repetitions, arguments.postgresql))
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = [asdict(timing) for timing in timings]
    (arguments.out / RESULT_FILE).write_text(json.dumps(rows, indent=1) + "\n")
    console.print(timing_table(timings))


def timing_table(timings: Sequence[Timing]) -> Table:
    """Minimum, median and maximum by database and way."""
    table = Table("database", "way", "rows", "rows/s: min", "median", "max", "of the reference")
    for database in dict.fromkeys(timing.database for timing in timings):
        of_it = [timing for timing in timings if timing.database == database]
        reference = statistics.median(timing.rows_per_s for timing in of_it if timing.way == REFERENCE)
        for way in dict.fromkeys(timing.way for timing in of_it):
            chosen = [timing for timing in of_it if timing.way == way]
            rates = [timing.rows_per_s for timing in chosen]
            table.add_row(
                *(database, way, str(chosen[0].n_rows)),
                *(f"{rate:.0f}" for rate in (min(rates), statistics.median(rates), max(rates))),
                f"{statistics.median(rates) / reference:.1f}",
            )
    return table


def reconstructions(run_id: int, n_rows: int) -> Iterator[Reconstruction]:
    """As a detector's events come: ever later, from everywhere, with a truth."""
    rng = np.random.default_rng(run_id)
    azimuths, zeniths = rng.uniform(0, 2 * np.pi, n_rows), np.arccos(rng.uniform(-1, 1, n_rows))
    directions = unit_vectors(azimuths, zeniths).tolist()
    for number, (x, y, z) in enumerate(directions):
        yield Reconstruction(
            event_id=EventId(run_id, number),
            detector="icecube86",
            start_unix_ns=_START_UNIX_NS + (run_id * n_rows + number) * 370_370,
            n_pulses=60,
            truth=Truth(float(azimuths[number]), float(zeniths[number]), 1000.0, EventKind(1 + number % 3)),
            estimate=Estimate((x, y, z), 12.0, 0.02, 0.05, 60),
            model=ModelVersion("direction", "2"),
            timings=Timings(_START_UNIX_NS, _START_UNIX_NS, _START_UNIX_NS),
        )


async def _measure(n_rows: int, n_repetitions: int, postgresql: str | None) -> list[Timing]:
    timings = list[Timing]()
    with tempfile.TemporaryDirectory() as directory, _postgresql(postgresql) as server_url:
        urls = {"SQLite": f"sqlite:///{directory}/records.sqlite"}
        if server_url is not None:
            urls["PostgreSQL"] = server_url
        async with _broker(Path(directory)) as nats_url:
            for url in urls.values():
                async with RecordStore(open_writer(database_url(url))) as store:
                    await store.migrate()
            # The first of each loads programs and caches. Each run has events of its own.
            for repetition in range(n_repetitions + 1):
                for name, url in urls.items():
                    first_run = 10 * repetition + 100 * list(urls).index(name) * (n_repetitions + 1)
                    found = [
                        await asyncio.to_thread(_one_by_one, name, url, first_run, max(n_rows // 40, 1)),
                        await _by_store(name, url, first_run + 1, n_rows),
                        await _by_recorder(name, url, first_run + 2, n_rows, nats_url),
                    ]
                    timings += found if repetition else []
    return timings


def _one_by_one(name: str, url: str, run_id: int, n_rows: int) -> Timing:
    columns = _columns(run_id, n_rows)
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    engine = open_writer(database_url(url))
    started_s = time.perf_counter()
    for row in rows:
        with engine.begin() as connection:
            connection.execute(insert(RECONSTRUCTIONS), row)
    seconds = time.perf_counter() - started_s
    engine.dispose()
    return Timing(name, REFERENCE, n_rows, seconds)


async def _by_store(name: str, url: str, run_id: int, n_rows: int) -> Timing:
    columns = _columns(run_id, n_rows)
    async with RecordStore(open_writer(database_url(url))) as store:
        started_s = time.perf_counter()
        for first in range(0, n_rows, _BATCH_ROWS):
            batch = {name: values[first : first + _BATCH_ROWS] for name, values in columns.items()}
            assert all(await store.insert(RECONSTRUCTIONS, batch))
        return Timing(name, STORE, n_rows, time.perf_counter() - started_s)


async def _by_recorder(name: str, url: str, run_id: int, n_rows: int, nats_url: str) -> Timing:
    async with connect(nats_url, name="benchmark") as connection:
        await reconcile_stream(connection, reconstructions_stream(_NAMES))
        js = connection.client.jetstream()
        await js.purge_stream(_NAMES.reconstructions_stream)
        with suppress(NotFoundError):
            await js.delete_consumer(_NAMES.reconstructions_stream, RECORDER_CONSUMER)
        await _publish(connection, run_id, n_rows)
        grpc_port, metrics_port = free_ports(2)
        flags = ["--nats-url", nats_url, "--database-url", url, "--grpc-port", str(grpc_port)]
        flags += ["--metrics-port", str(metrics_port), "--log-level", "error"]
        with _running([sys.executable, "-m", "services.recorder", *flags]):
            # It makes its consumer when the database is in place: starting up is no part of the rate.
            n_at_start = await _first(connection, lambda _: True)
            started_s = time.perf_counter()
            await _first(connection, lambda n_left: n_left == 0)
            return Timing(name, RECORDER, n_at_start, time.perf_counter() - started_s)


async def _publish(connection: Connection, run_id: int, n_rows: int) -> None:
    subject = _NAMES.reconstructions("icecube86", "direction")
    messages = reconstructions_to_messages(reconstructions(run_id, n_rows))
    async with WindowedPublisher(connection) as publisher:
        for number, message in enumerate(messages):
            await publisher.publish(subject, message.SerializeToString(), message_id=f"{run_id}.{number}")
        await publisher.flush()


async def _first(connection: Connection, is_enough: Callable[[int], bool]) -> int:
    """How many messages are not acknowledged, as soon as there is a consumer and the number is right."""
    js = connection.client.jetstream()
    async with asyncio.timeout(_PATIENCE_S):
        while True:
            with suppress(NotFoundError):
                info = await js.consumer_info(_NAMES.reconstructions_stream, RECORDER_CONSUMER)
                n_left = (info.num_pending or 0) + (info.num_ack_pending or 0)
                if is_enough(n_left):
                    return n_left
            await asyncio.sleep(_POLL_S)


def _columns(run_id: int, n_rows: int) -> Columns:
    return reconstruction_columns(
        reconstructions_to_messages(reconstructions(run_id, n_rows)), time.time_ns()
    )


@asynccontextmanager
async def _broker(directory: Path) -> AsyncIterator[str]:
    [port] = free_ports(1)
    program = Path(sys.executable).with_name("nats-server")
    url = f"nats://{LOOPBACK}:{port}"
    with _running([str(program), "-js", "-a", LOOPBACK, "-p", str(port), "-sd", str(directory / "nats")]):
        async with connect(url, name="benchmark", timeout_s=10.0):
            yield url


@contextmanager
def _postgresql(given: str | None) -> Iterator[str | None]:
    """The URL of an empty database; None where there is none to be had."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if given is not None or not programs:
        yield given
        return
    [port] = free_ports(1)
    directory = Path(tempfile.mkdtemp(prefix="icestream-postgresql-"))
    # It refuses to be root.
    identity: dict[str, Any] = {}
    if os.geteuid() == 0:
        shutil.chown(directory, "nobody")
        identity = {"user": "nobody", "group": "nogroup", "extra_groups": [], "cwd": "/"}
    try:
        initdb = [
            str(programs[0] / "initdb"),
            "-D",
            str(directory / "data"),
            "-U",
            "icestream",
            "--auth=trust",
        ]
        run(initdb, check=True, stdout=DEVNULL, **identity)  # noqa: S603 - a program of Debian's
        settings = {"listen_addresses": LOOPBACK, "unix_socket_directories": "", "port": str(port)}
        flags = [flag for name, value in settings.items() for flag in ("-c", f"{name}={value}")]
        command = [str(programs[0] / "postgres"), "-D", str(directory / "data"), *flags]
        url = f"postgresql://icestream@{LOOPBACK}:{port}/postgres"
        with _running(command, **identity):
            _wait_for(url)
            yield url
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _wait_for(url: str) -> None:
    engine = open_writer(database_url(url))
    for _ in range(int(_PATIENCE_S / _POLL_S)):
        with suppress(StoreUnavailable):
            migrate(engine)
            engine.dispose()
            return
        time.sleep(_POLL_S)
    raise RuntimeError("PostgreSQL does not start")


@contextmanager
def _running(command: Sequence[str], **how: Any) -> Iterator[None]:
    process = Popen(command, stdout=DEVNULL, stderr=DEVNULL, **how)  # noqa: S603 - programs of ours
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)


if __name__ == "__main__":
    main()
