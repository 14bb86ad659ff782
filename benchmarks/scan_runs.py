"""Scans one event, in this process or by a local stack, and measures it."""

import argparse
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import grpc

from benchmarks.processes import cpu_s, difference
from icestream.cli.scan_local import local_request
from icestream.codec import event_to_message
from icestream.physics import celestial
from icestream.physics.detector import icecube86
from icestream.physics.events import Event, EventId
from icestream.ports import CallOptions, TensorModel
from icestream.runtime.endpoints import LOOPBACK, Endpoints
from icestream.runtime.local_stack import RunningStack, StackOptions, local_stack
from icestream.scans.progress import LevelProgress, ScanProgress
from icestream.scans.recos import registry
from icestream.scans.state import ScanState
from icestream.scans.sweep import scan_in_process
from icestream.v1 import scan_pb2, scan_pb2_grpc

HERE = "this process"
"""Scans in process; beside the service, the client and the supervisor of the stack."""
PARTS = {
    "scanner": "scanner",
    "triton": "model server",
    "nats": "broker",
    "recorder": "recorder",
    "router": "all others",
    "nats-exporter": "all others",
    "jaeger": "all others",
}
"""Which part of the service a process of the stack is."""
WORKERS = "scan workers"

_BATCH_PATIENCE_S = 600.0


@dataclass(frozen=True, slots=True)
class Scanned:
    """One scan."""

    n_fits: int
    """Pixels times position variations."""
    seconds: float
    """Until the final map was in the client's hands."""
    first_map_s: float
    """Until the client knew that every pixel of the first level was there, which is a map of the whole sky."""
    cpu_s: dict[str, float]
    """Processor time, by part."""

    @property
    def fits_per_s(self) -> float:
        """Rate of the whole scan."""
        return self.n_fits / self.seconds


@dataclass(frozen=True, slots=True)
class Turn:
    """An event, scanned in each way, one after the other."""

    reco: str
    n_modules: int
    """As asked for; the event may have some per cent more or less."""
    n_workers: int
    """Of the stack."""
    round: int
    in_process: dict[int, Scanned]
    """By the number of threads."""
    service: Scanned


@dataclass(frozen=True, slots=True)
class ScanStack:
    """A local stack, and a client of its scanner."""

    stack: RunningStack
    service: scan_pb2_grpc.ScanServiceStub

    def cpu_s(self) -> dict[str, float]:
        """Processor time so far, by part."""
        n_workers = self.stack.options.n_scan_workers
        parts = PARTS | {f"scan-worker-{number}": WORKERS for number in range(1, n_workers + 1)}
        if not self.stack.has_jaeger:
            del parts["jaeger"]
        total = dict.fromkeys(parts.values(), 0.0) | {HERE: time.process_time()}
        for name, part in parts.items():
            total[part] += cpu_s(self.stack.supervisor.pid(name), with_children=True)
        return total


def n_scan_workers(argument: str) -> int:
    """How many scan workers a command line asks for: with none a scan would never end."""
    number = int(argument)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} scan workers fit no pixel; give at least one")
    return number


@asynccontextmanager
async def scan_stack(repository: Path, n_workers: int, max_message_bytes: int) -> AsyncIterator[ScanStack]:
    """Run a local stack as `icestream up` does, with so many scan workers, on ports that are free."""
    with tempfile.TemporaryDirectory(prefix="icestream-scans-") as directory:
        options = StackOptions(
            Path(directory), Endpoints.free(), model_repository=repository, n_scan_workers=n_workers
        )
        async with local_stack(options) as stack:
            address = f"{LOOPBACK}:{stack.options.endpoints.scanner_grpc}"
            channel_options = [("grpc.max_receive_message_length", max_message_bytes)]
            async with grpc.aio.insecure_channel(address, options=channel_options) as channel:
                stub = scan_pb2_grpc.ScanServiceStub(channel)  # type: ignore[no-untyped-call]
                yield ScanStack(stack, stub)


async def scan_here(event: Event, reco_name: str, models: TensorModel, n_threads: int) -> Scanned:
    """Scan in this process, as `icestream scan` does without a service.

    Args:
        event: What to scan; its time is known.
        reco_name: Fits the pixels.
        models: Take at least `n_threads` calls at once, each in one thread.
        n_threads: Batches in work at once.
    """
    reco = registry.get(reco_name)
    started_s, before_s = time.perf_counter(), time.process_time()
    first_map_s = list[float]()

    def look(_: ScanState, progress: ScanProgress) -> None:
        if not first_map_s and has_first_map(progress.levels):
            first_map_s.append(time.perf_counter() - started_s)

    prepared = reco.prepare(event, icecube86())
    state = await scan_in_process(
        local_request(event, scan_pb2.ScanOptions(reco=reco_name), reco, prepared, time.time_ns()),
        reco,
        prepared,
        models,
        partial(celestial.to_detector, unix_ns=event.start_unix_ns),
        CallOptions(timeout_s=_BATCH_PATIENCE_S),
        look,
        n_at_once=n_threads,
    )
    state.skymap(hypotheses=reco.hypotheses, notes={})
    seconds = time.perf_counter() - started_s
    return Scanned(state.n_fits_done, seconds, first_map_s[0], {HERE: time.process_time() - before_s})


async def scan_by_service(event: Event, reco: str, stack: ScanStack, number: int) -> Scanned:
    """Scan by the service, from the StartScan call to the final map.

    Args:
        event: What to scan.
        reco: Fits the pixels.
        stack: Whose scanner is asked.
        number: Another one each time, so that it is another event as far as anybody who caches can tell.
    """
    message = event_to_message(replace(event, id=EventId(event.id.run_id, number)))
    cpu_before_s, started_s = stack.cpu_s(), time.perf_counter()
    start = scan_pb2.StartScanRequest(event=message, options=scan_pb2.ScanOptions(reco=reco))
    scan = (await stack.service.StartScan(start)).scan
    first_map_s = None
    async for update in stack.service.WatchScan(scan_pb2.WatchScanRequest(scan_id=scan.scan_id)):
        scan = update.scan
        if first_map_s is None and has_first_map(scan.progress.levels):
            first_map_s = time.perf_counter() - started_s
    skymap = (await stack.service.GetSkymap(scan_pb2.GetSkymapRequest(scan_id=scan.scan_id))).skymap
    seconds = time.perf_counter() - started_s
    if not skymap.is_complete or first_map_s is None:
        raise RuntimeError(f"scan {scan.scan_id} is not complete")
    cpu = difference(stack.cpu_s(), cpu_before_s)
    return Scanned(scan.progress.n_fits_done, seconds, first_map_s, cpu)


def has_first_map(levels: Iterable[LevelProgress | scan_pb2.LevelProgress]) -> bool:
    """Whether the first level has begun and lacks nothing."""
    first = next(iter(levels), None)
    return first is not None and first.n_pixels_done == first.n_pixels_planned > 0


def cpu_per_fit_s(scans: Iterable[Scanned]) -> Mapping[str, float]:
    """Processor time of each part for a fit, over all these scans: one scan is too short for the kernel's clock."""
    chosen = list(scans)
    n_fits = sum(one.n_fits for one in chosen)
    return {part: sum(one.cpu_s[part] for one in chosen) / n_fits for part in chosen[0].cpu_s}
