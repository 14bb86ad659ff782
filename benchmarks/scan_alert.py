"""How long an alert waits behind a full catalogue: `python -m benchmarks.scan_alert`.

A local stack of its own scans one event as an alert (1) with nothing else to do and (2) while 100 scans of the
catalogue, of the same event, are queued or running: from the StartScan call to the final map in the client's
hands. Each repetition measures both, one after the other, and cancels what is left of the catalogue.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.machine import this_machine
from benchmarks.scan_runs import n_scan_workers, scan_stack
from benchmarks.scan_speed import MAX_MESSAGE_BYTES, N_MODULES, events_of
from benchmarks.spread import spread
from icestream.codec import event_to_message
from icestream.physics.events import Event, EventId
from icestream.runtime.local_stack import CHECKOUT
from icestream.scans.request import ALERT_PRIORITY
from icestream.v1 import scan_pb2, scan_pb2_grpc

RESULT_FILE = "scan_alert.json"
ALERT_RUN, CATALOGUE_RUN = 1, 2
_LOOK_S = 0.02


@dataclass(frozen=True, slots=True)
class Pair:
    """The same alert without and with a catalogue."""

    n_fits: int
    unloaded_s: float
    loaded_s: float
    n_left: int
    """Scans of the catalogue that had not ended when the alert had."""

    @property
    def ratio(self) -> float:
        """How many times longer it took."""
        return self.loaded_s / self.unloaded_s


class Client:
    """Scans of one event under many names, so that nobody can cache."""

    def __init__(self, service: scan_pb2_grpc.ScanServiceStub, event: Event, reco: str) -> None:
        self._service = service
        self._event = event
        self._reco = reco
        self._n_started = 0

    async def start(self, run_id: int, priority: int) -> scan_pb2.Scan:
        """Start a scan."""
        self._n_started += 1
        event = replace(self._event, id=EventId(run_id, self._n_started))
        options = scan_pb2.ScanOptions(reco=self._reco, priority=priority)
        request = scan_pb2.StartScanRequest(event=event_to_message(event), options=options)
        scan: scan_pb2.Scan = (await self._service.StartScan(request)).scan
        return scan

    async def alert(self) -> tuple[int, float]:
        """Scan the event as an alert; the number of its fits, and the time until its map is here."""
        started_s = time.perf_counter()
        scan = await self.start(ALERT_RUN, ALERT_PRIORITY)
        async for update in self._service.WatchScan(scan_pb2.WatchScanRequest(scan_id=scan.scan_id)):
            scan = update.scan
        skymap = (await self._service.GetSkymap(scan_pb2.GetSkymapRequest(scan_id=scan.scan_id))).skymap
        seconds = time.perf_counter() - started_s
        if not skymap.is_complete:
            raise RuntimeError(f"scan {scan.scan_id} is not complete")
        return scan.progress.n_fits_done, seconds

    async def fill(self, n_scans: int) -> None:
        """Queue a catalogue, and return when fits of it come back."""
        scans = await asyncio.gather(*(self.start(CATALOGUE_RUN, 0) for _ in range(n_scans)))
        oldest = min(scans, key=lambda scan: scan.created_unix_ns)
        while not oldest.progress.n_fits_done:
            await asyncio.sleep(_LOOK_S)
            oldest = (await self._service.GetScan(scan_pb2.GetScanRequest(scan_id=oldest.scan_id))).scan

    async def empty(self) -> int:
        """Cancel everything; the number of scans that had not ended."""
        states = [scan_pb2.SCAN_STATE_RUNNING, scan_pb2.SCAN_STATE_QUEUED]
        request = scan_pb2.ListScansRequest(states=states, page_size=1000)
        left = (await self._service.ListScans(request)).scans
        for scan in left:
            await self._service.CancelScan(scan_pb2.CancelScanRequest(scan_id=scan.scan_id))
        return len(left)


def main() -> None:
    """Measure by the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scan_alert", description=__doc__)
    parser.add_argument("--reco", default="track_mpe")
    parser.add_argument("--scans", type=int, default=100)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--scan-workers", type=n_scan_workers, default=2)
    parser.add_argument("--repository", type=Path, default=CHECKOUT / "model_repository")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scan_alert"))
    arguments = parser.parse_args()
    console = Console()
    console.print(str(this_machine()))
    pairs = asyncio.run(
        _measure(
            arguments.reco,
            arguments.scans,
            arguments.repetitions,
            arguments.scan_workers,
            arguments.repository,
        )
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    content = {"machine": this_machine().as_dict(), "pairs": [asdict(pair) for pair in pairs]}
    (arguments.out / RESULT_FILE).write_text(json.dumps(content, indent=1) + "\n")
    console.print(pair_table(pairs))


def pair_table(pairs: Sequence[Pair]) -> Table:
    """Minimum, median and maximum."""
    columns: dict[str, list[float]] = {
        "alone, s": [pair.unloaded_s for pair in pairs],
        "with a catalogue, s": [pair.loaded_s for pair in pairs],
        "ratio": [pair.ratio for pair in pairs],
        "fits": [pair.n_fits for pair in pairs],
        "scans left": [pair.n_left for pair in pairs],
    }
    table = Table("an alert", "min", "median", "max")
    for name, values in columns.items():
        table.add_row(name, *(f"{value:.4g}" for value in spread(values)))
    return table


async def _measure(
    reco: str, n_scans: int, n_repetitions: int, n_workers: int, repository: Path
) -> list[Pair]:
    event = next(events_of(N_MODULES))
    async with scan_stack(repository, n_workers, MAX_MESSAGE_BYTES) as running:
        client = Client(running.service, event, reco)
        # The first loads models and tables.
        pairs = [await _pair(client, n_scans) for _ in range(n_repetitions + 1)]
    return pairs[1:]


async def _pair(client: Client, n_scans: int) -> Pair:
    # The first after a catalogue waits for what workers still hold of it.
    await client.alert()
    n_fits, unloaded_s = await client.alert()
    await client.fill(n_scans)
    _, loaded_s = await client.alert()
    return Pair(n_fits, unloaded_s, loaded_s, await client.empty())


if __name__ == "__main__":
    main()
