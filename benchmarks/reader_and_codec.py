"""How fast events are read from a data set and put on the wire, and how much memory a large data set takes.

    python -m benchmarks.reader_and_codec [--pulses N] [--out DIR]

The reader works through one batch file of a Kaggle data set; by default it has 33 million pulses, as those of the
competition have. Reference: pyarrow, which reads the whole file into memory and cuts it into events without a check.
The codec turns events of several sizes into messages and back. Reference: JSON, with a list for each column.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.load import sample_events
from benchmarks.machine import this_machine
from icestream.codec import decode_event, encode_event
from icestream.physics.detector import icecube86
from icestream.physics.events import Event, EventId, Pulses
from icestream.readers.kaggle import KaggleDataset, KaggleWriter
from icestream.readers.kaggle.layout import batch_path

PULSES_OF_A_BATCH = 33_000_000
N_SAMPLE = 2000
"""Simulated events whose sizes those of the data set have, over and over."""
EVENT_SIZES = (50, 500, 5000, 50_000)
PULSES_A_RUN = 1_000_000
"""What one timing of the codec covers, so that no clock is too coarse for it."""
_TABLE_WIDTH = 120
_SMALL = "small"
_SPLIT: Final = "test"
"""The events have no truth."""
_COLUMNS = ("sensor_id", "time", "charge", "auxiliary", "event_id")


@dataclass(frozen=True, slots=True)
class Reading:
    """One pass through the file, in a process of its own."""

    name: str
    n_events: int
    n_pulses: int
    seconds: float
    """Of processor time, whatever the number of threads."""
    peak_mib: float
    """Most memory that the process ever held, its libraries included."""


@dataclass(frozen=True, slots=True)
class Coding:
    """Microseconds of processor time for an event, one number for each run."""

    name: str
    n_pulses: int
    n_bytes: int
    encode_us: list[float]
    decode_us: list[float]


def main() -> None:
    """Measure, print, and write where that is asked for."""
    arguments = _parser().parse_args()
    machine, console = this_machine(), Console(width=_TABLE_WIDTH)
    console.print(str(machine))
    codings = measure_codec(arguments.runs)
    console.print(codec_table(codings))
    with tempfile.TemporaryDirectory(prefix="icestream-reader-") as folder:
        n_bytes = write_dataset(Path(folder), arguments.pulses)
        write_dataset(Path(folder) / _SMALL, 1)
        readings = measure_reader(Path(folder), arguments.runs)
    console.print(reader_table(readings, n_bytes))
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        content = {
            "machine": machine.as_dict(),
            "file_bytes": n_bytes,
            "readings": [asdict(reading) for reading in readings],
            "codings": [asdict(coding) for coding in codings],
        }
        (arguments.out / "reader_and_codec.json").write_text(json.dumps(content, indent=2) + "\n")


def write_dataset(folder: Path, n_pulses: int) -> int:
    """Write a data set of one batch with at least so many pulses; returns the size of its file."""
    sizes, random, written = (
        cycle(len(event.pulses) for event in sample_events(N_SAMPLE)),
        np.random.default_rng(1),
        0,
    )
    with (
        KaggleWriter(folder, split=_SPLIT, events_per_batch=n_pulses) as writer,
        Progress(transient=True) as progress,
    ):
        task = progress.add_task("writing the data set", total=n_pulses)
        for number, size in enumerate(sizes):
            writer.write(random_event(random, number, size))
            written += size
            progress.update(task, completed=written)
            if written >= n_pulses:
                break
    return batch_path(folder, _SPLIT, 1).stat().st_size


def measure_reader(folder: Path, n_runs: int) -> list[Reading]:
    """Let both readers have the file in turns; the file is in the page cache from its writing."""
    readers = (("IceStream's reader", _read_events), ("pyarrow, whole file", _read_whole))
    # Each in a process of its own: the most memory that a process held never becomes less.
    spawning = multiprocessing.get_context("spawn")
    readings = []
    for _ in range(n_runs):
        for name, read in readers:
            with spawning.Pool(1) as pool:
                readings.append(pool.apply(partial(_timed, name, read), (folder,)))
    return readings


def _timed(name: str, read: Callable[[Path], tuple[int, int]], folder: Path) -> Reading:
    # Libraries that load other ones at their first use have done so.
    read(folder / _SMALL)
    started_s = time.process_time()
    n_events, n_pulses = read(folder)
    seconds = time.process_time() - started_s
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Reading(name, n_events, n_pulses, seconds, peak_kib / 1024)


def _read_events(folder: Path) -> tuple[int, int]:
    n_events = n_pulses = 0
    for event in KaggleDataset.open(folder).events():
        assert isinstance(event, Event)
        n_events += 1
        n_pulses += len(event.pulses)
    return n_events, n_pulses


def _read_whole(folder: Path) -> tuple[int, int]:
    table = pq.ParquetFile(batch_path(folder, _SPLIT, 1)).read(columns=list(_COLUMNS))
    columns = {name: table.column(name).to_numpy() for name in _COLUMNS}
    starts = np.flatnonzero(np.diff(columns["event_id"], prepend=-1))
    n_events = n_pulses = 0
    for start, end in zip(starts, [*starts[1:], table.num_rows], strict=True):
        own = {name: column[start:end] for name, column in columns.items()}
        n_events += 1
        n_pulses += len(own["time"])
    return n_events, n_pulses


def measure_codec(n_runs: int) -> list[Coding]:
    """Time both codecs for each size of events, in turns."""
    codings = []
    for n_pulses in EVENT_SIZES:
        random = np.random.default_rng(n_pulses)
        events = [random_event(random, number, n_pulses) for number in range(PULSES_A_RUN // n_pulses)]
        ours = Coding("protobuf, columns of bytes", n_pulses, len(encode_event(events[0])), [], [])
        theirs = Coding("JSON", n_pulses, len(_to_json(events[0])), [], [])
        for _ in range(n_runs):
            _time_codec(ours, events, encode_event, decode_event)
            # A tenth of the events: it is slow.
            _time_codec(theirs, events[: max(1, len(events) // 10)], _to_json, _from_json)
        codings += [ours, theirs]
    return codings


def random_event(random: np.random.Generator, number: int, n_pulses: int) -> Event:
    """An event of exactly so many pulses, as fine as real ones (1 ns, 0.025 p.e.); no two events are alike."""
    pulses = Pulses(
        random.integers(0, 5160, n_pulses).astype(np.uint16),
        np.sort(random.integers(6000, 20_000, n_pulses)).astype(np.float64),
        (np.round(random.exponential(40.0, n_pulses) + 1) / 40).astype(np.float32),
        random.integers(0, 2, n_pulses).astype(np.uint8),
    )
    return Event(EventId(1, number), icecube86().name, 1_700_000_000_000_000_000, pulses)


def _time_codec(
    coding: Coding,
    events: Sequence[Event],
    encode: Callable[[Event], bytes],
    decode: Callable[[bytes], Any],
) -> None:
    started_s = time.process_time()
    payloads = [encode(event) for event in events]
    encoded_s = time.process_time()
    for payload in payloads:
        decode(payload)
    decoded_s = time.process_time()
    coding.encode_us.append((encoded_s - started_s) / len(events) * 1e6)
    coding.decode_us.append((decoded_s - encoded_s) / len(events) * 1e6)


def _to_json(event: Event) -> bytes:
    pulses = event.pulses
    content = {
        "run_id": event.id.run_id,
        "event_id": event.id.event_id,
        "sub_event": event.id.sub_event,
        "detector": event.detector,
        "start_unix_ns": event.start_unix_ns,
        "sensor_id": pulses.sensor_id.tolist(),
        "time_ns": pulses.time_ns.tolist(),
        "charge_pe": pulses.charge_pe.tolist(),
        "flags": pulses.flags.tolist(),
    }
    return json.dumps(content).encode()


def _from_json(payload: bytes) -> Event:
    content = json.loads(payload)
    pulses = Pulses(
        np.array(content["sensor_id"], np.uint16),
        np.array(content["time_ns"], np.float64),
        np.array(content["charge_pe"], np.float32),
        np.array(content["flags"], np.uint8),
    )
    event_id = EventId(content["run_id"], content["event_id"], content["sub_event"])
    return Event(event_id, content["detector"], content["start_unix_ns"], pulses)


def codec_table(codings: Sequence[Coding]) -> Table:
    """Least, median and most of each."""
    table = Table(
        title="Codec: microseconds of one core for an event, least / median / most", title_justify="left"
    )
    for column in ("pulses", "codec", "bytes", "encode", "decode", "MB/s both ways", "ratio to JSON"):
        table.add_column(column, justify="left" if column == "codec" else "right")
    json_us = {coding.n_pulses: _both_us(coding) for coding in codings if coding.name == "JSON"}
    for coding in codings:
        both_us = _both_us(coding)
        table.add_row(
            f"{coding.n_pulses:,}",
            coding.name,
            f"{coding.n_bytes:,}",
            _spread(coding.encode_us),
            _spread(coding.decode_us),
            f"{coding.n_bytes / both_us:,.0f}",
            f"{json_us[coding.n_pulses] / both_us:.1f}",
        )
    return table


def _both_us(coding: Coding) -> float:
    return float(np.median(coding.encode_us) + np.median(coding.decode_us))


def reader_table(readings: Sequence[Reading], n_bytes: int) -> Table:
    """Least, median and most of each reader, and their ratio."""
    first = readings[0]
    title = (
        f"Reader: one file of {first.n_events:,} events, {first.n_pulses:,} pulses, {n_bytes / 1e6:,.0f} MB"
    )
    table = Table(title=title, title_justify="left")
    for column in ("reader", "events/s", "MB/s", "peak memory, MiB", "speed to pyarrow"):
        table.add_column(column, justify="left" if column == "reader" else "right")
    names = list(dict.fromkeys(reading.name for reading in readings))
    medians_s = {name: np.median([one.seconds for one in readings if one.name == name]) for name in names}
    for name in names:
        own = [one for one in readings if one.name == name]
        table.add_row(
            name,
            _spread([one.n_events / one.seconds for one in own]),
            _spread([n_bytes / one.seconds / 1e6 for one in own]),
            _spread([one.peak_mib for one in own]),
            f"{medians_s[names[-1]] / medians_s[name]:.2f}",
        )
    return table


def _spread(numbers: Sequence[float]) -> str:
    low, middle, high = np.quantile(numbers, (0.0, 0.5, 1.0))
    digits = next((digits for digits, limit in ((0, 100), (1, 10)) if middle >= limit), 2)
    return " / ".join(f"{number:,.{digits}f}" for number in (low, middle, high))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.reader_and_codec", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--pulses", type=int, default=PULSES_OF_A_BATCH, help="of the data set (default: %(default)s)"
    )
    parser.add_argument("--runs", type=int, default=3, help="of each (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="folder for reader_and_codec.json")
    return parser


if __name__ == "__main__":
    main()
