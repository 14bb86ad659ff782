"""How fast the service scans, against the same graph called in this process: `python -m benchmarks.scan_speed`.

An event with about 100 hit modules is scanned (1) batch after batch in one loop by onnxruntime with one thread, and (2)
by a local stack of its own: from the StartScan call to the final map in the client's hands. Repetitions take turns.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import grpc
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.machine import this_machine
from icestream.cli.scan_local import local_request
from icestream.codec import event_to_message
from icestream.physics.detector import icecube86
from icestream.physics.events import Event, EventId, EventKind
from icestream.physics.simulation import simulate
from icestream.ports import CallOptions
from icestream.runtime.endpoints import LOOPBACK, Endpoints
from icestream.runtime.local_stack import CHECKOUT, StackOptions, local_stack
from icestream.runtime.onnx_models import OnnxModels
from icestream.scans.recos import registry
from icestream.scans.sweep import scan_in_process
from icestream.v1 import scan_pb2, scan_pb2_grpc

SEED = 930_005
N_MODULES = 100
TOLERANCE = 5
MAX_FITS = 3700
RESULT_FILE = "scan_speed.json"
MAX_MESSAGE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Timing:
    """One scan."""

    way: str
    n_fits: int
    seconds: float

    @property
    def fits_per_s(self) -> float:
        """Rate of the whole scan."""
        return self.n_fits / self.seconds


def main() -> None:
    """Measure by the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scan_speed", description=__doc__)
    parser.add_argument("--reco", default="track_mpe")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--scan-workers", type=int, default=2)
    parser.add_argument("--repository", type=Path, default=CHECKOUT / "model_repository")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scan_speed"))
    arguments = parser.parse_args()
    console = Console()
    console.print(str(this_machine()))
    timings = asyncio.run(
        _measure(arguments.reco, arguments.repetitions, arguments.scan_workers, arguments.repository)
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = [asdict(timing) for timing in timings]
    (arguments.out / RESULT_FILE).write_text(json.dumps(rows, indent=1) + "\n")
    console.print(timing_table(timings))


def timing_table(timings: Sequence[Timing]) -> Table:
    """Minimum, median and maximum by way."""
    table = Table(
        "way", "fits", "seconds: min", "median", "max", "fits/s: min", "median", "max", "of in-process"
    )
    reference = statistics.median(timing.fits_per_s for timing in timings if timing.way == "in-process")
    for way in dict.fromkeys(timing.way for timing in timings):
        chosen = [timing for timing in timings if timing.way == way]
        seconds, rates = [t.seconds for t in chosen], [t.fits_per_s for t in chosen]
        table.add_row(
            way, str(chosen[0].n_fits),
            *(f"{value:.2f}" for value in (min(seconds), statistics.median(seconds), max(seconds))),
            *(f"{value:.0f}" for value in (min(rates), statistics.median(rates), max(rates))),
            f"{statistics.median(rates) / reference:.2f}",
        )  # fmt: skip
    return table


def events_of(n_modules: int) -> Iterator[Event]:
    """Through-going tracks that lit about so many modules, by HLC."""
    for event in simulate(icecube86(), seed=SEED):
        n_hit = len(np.unique(event.pulses.sensor_id[event.pulses.is_hlc]))
        is_track = event.truth is not None and event.truth.kind is EventKind.THROUGH_GOING_TRACK
        if is_track and abs(n_hit - n_modules) <= TOLERANCE:
            yield event


async def _typical(events: Iterator[Event], reco: str, models: OnnxModels) -> Event:
    """The first event whose minimum stays where it was found: most scans take 3100 to 3700 fits, few 10 000."""
    for event in events:
        if (await _in_process(event, reco, models)).n_fits <= MAX_FITS:
            return event
    raise AssertionError("simulate does not end")


async def _measure(reco: str, n_repetitions: int, n_workers: int, repository: Path) -> list[Timing]:
    timings = list[Timing]()
    with tempfile.TemporaryDirectory() as directory:
        options = StackOptions(
            Path(directory), Endpoints.free(), model_repository=repository, n_scan_workers=n_workers
        )
        async with local_stack(options) as stack, OnnxModels(repository, n_threads=1) as models:
            event = await _typical(events_of(N_MODULES), reco, models)
            address = f"{LOOPBACK}:{stack.options.endpoints.scanner_grpc}"
            channel_options = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]
            async with grpc.aio.insecure_channel(address, options=channel_options) as channel:
                service = scan_pb2_grpc.ScanServiceStub(channel)  # type: ignore[no-untyped-call]
                # The first of each loads models and tables.
                for repetition in range(n_repetitions + 1):
                    pair = [
                        await _in_process(event, reco, models),
                        await _by_service(event, reco, service, repetition),
                    ]
                    timings += pair if repetition else []
    return timings


async def _in_process(event: Event, reco_name: str, models: OnnxModels) -> Timing:
    reco = registry.get(reco_name)
    started_s = time.perf_counter()
    prepared = reco.prepare(event, icecube86())
    # In the detector's frame: turning the pixels is the service's business.
    request = local_request(
        replace(event, start_unix_ns=0), scan_pb2.ScanOptions(reco=reco_name), reco, prepared, time.time_ns()
    )
    options = CallOptions(timeout_s=60.0)
    state = await scan_in_process(request, reco, prepared, models, lambda vectors: vectors, options)
    return Timing("in-process", state.n_fits_done, time.perf_counter() - started_s)


async def _by_service(
    event: Event, reco: str, service: scan_pb2_grpc.ScanServiceStub, repetition: int
) -> Timing:
    # Another event each time, as far as anybody who caches can tell.
    new = replace(event, id=EventId(event.id.run_id, repetition))
    started_s = time.perf_counter()
    start = scan_pb2.StartScanRequest(event=event_to_message(new), options=scan_pb2.ScanOptions(reco=reco))
    scan = (await service.StartScan(start)).scan
    async for update in service.WatchScan(scan_pb2.WatchScanRequest(scan_id=scan.scan_id)):
        scan = update.scan
    skymap = (await service.GetSkymap(scan_pb2.GetSkymapRequest(scan_id=scan.scan_id))).skymap
    seconds = time.perf_counter() - started_s
    if not skymap.is_complete:
        raise RuntimeError(f"scan {scan.scan_id} is not complete")
    return Timing("service", scan.progress.n_fits_done, seconds)


if __name__ == "__main__":
    main()
