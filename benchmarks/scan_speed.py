"""How fast the service scans, against the same graph called in this process: `python -m benchmarks.scan_speed`.

Simulated events with few and with many hit modules are scanned with the service's own options (1) in this process, by
onnxruntime with one thread and with one for each core, and (2) by a local stack with few and with more scan workers:
from the StartScan call to the final map in the client's hands. In each round each stack is started anew, alone; while
it runs, all ways take turns, and the ratio of rates is taken in each turn.

In process nothing is sent, stored or served: no broker, no model server, no restart after a crash.
"""

import argparse
import asyncio
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks.machine import this_machine
from benchmarks.scan_report import cost_table, draw, speed_table
from benchmarks.scan_runs import ScanStack, Turn, n_scan_workers, scan_by_service, scan_here, scan_stack
from icestream.physics.detector import icecube86
from icestream.physics.events import Event, EventKind
from icestream.physics.simulation import simulate
from icestream.runtime.local_stack import CHECKOUT
from icestream.runtime.onnx_models import OnnxModels
from icestream.scan_acceptance import DEFAULT_RECO
from icestream.scans.recos import registry

SEED = 930_005
N_MODULES = 100
"""Of an event that is neither faint nor bright."""
TOLERANCE = 0.05
MAX_FITS = 3700
MAX_MESSAGE_BYTES = 64 << 20
RESULT_FILE = "scan_speed.json"
PLOT_FILE = "scan_speed.png"
WIDTH = 170

_N_CORES = os.cpu_count() or 1


def main() -> None:
    """Measure by the command line."""
    given = _parser().parse_args()
    if given.quick:
        given.modules, given.rounds, given.turns = given.modules[:1] + given.modules[-1:], 1, 1
    console = Console(width=WIDTH)
    console.print(str(this_machine()))
    turns = asyncio.run(_measure(given, console.print))
    console.print(f"load at the end: {this_machine().load_1min}")
    for table in (speed_table(turns), cost_table(turns)):
        console.print(table)
    given.out.mkdir(parents=True, exist_ok=True)
    content = {"machine": this_machine().as_dict(), "turns": [asdict(turn) for turn in turns]}
    (given.out / RESULT_FILE).write_text(json.dumps(content, indent=1) + "\n")
    draw(turns, given.out / PLOT_FILE)


def events_of(n_modules: int) -> Iterator[Event]:
    """Through-going tracks that lit about so many modules, by HLC; always the same ones, in the same order."""
    for event in simulate(icecube86(), seed=SEED):
        n_hit = len(np.unique(event.pulses.sensor_id[event.pulses.is_hlc]))
        is_track = event.truth is not None and event.truth.kind is EventKind.THROUGH_GOING_TRACK
        if is_track and abs(n_hit - n_modules) <= TOLERANCE * n_modules:
            yield replace(event, truth=None)


async def _measure(given: argparse.Namespace, report: Callable[[str], object]) -> list[Turn]:
    turns, numbers = list[Turn](), count(1)
    async with OnnxModels(given.repository, n_threads=_N_CORES) as models:
        events = {n_modules: await _typical(n_modules, given.reco[0], models) for n_modules in given.modules}
        for round_number in range(given.rounds):
            for n_workers in given.scan_workers:
                async with scan_stack(given.repository, n_workers, MAX_MESSAGE_BYTES) as stack:
                    # The first turn loads models and tables.
                    for number in range(given.turns + 1):
                        found = await _turn(events, given.reco, stack, models, numbers, round_number)
                        turns += found if number else []
                report(f"round {round_number + 1}, stack of {n_workers} scan workers: done")
    return turns


async def _turn(
    events: Mapping[int, Event],
    recos: Sequence[str],
    stack: ScanStack,
    models: OnnxModels,
    numbers: Iterator[int],
    round_number: int,
) -> list[Turn]:
    """Scan each event once in each way."""
    return [
        Turn(
            reco=reco,
            n_modules=n_modules,
            n_workers=stack.stack.options.n_scan_workers,
            round=round_number,
            in_process={n: await scan_here(event, reco, models, n) for n in sorted({1, _N_CORES})},
            service=await scan_by_service(event, reco, stack, next(numbers)),
        )
        for reco in recos
        for n_modules, event in events.items()
    ]


async def _typical(n_modules: int, reco: str, models: OnnxModels) -> Event:
    """The first event whose minimum stays where it was found: most scans take 3100 to 3700 fits, few 10 000."""
    for event in events_of(n_modules):
        if (await scan_here(event, reco, models, _N_CORES)).n_fits <= MAX_FITS:
            return event
    raise AssertionError("simulate does not end")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scan_speed", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--reco",
        nargs="+",
        default=[DEFAULT_RECO],
        choices=registry.available(),
        help=f"default: {DEFAULT_RECO}, the service's",
    )
    parser.add_argument(
        "--modules",
        type=int,
        nargs="+",
        default=[20, 60, N_MODULES, 200],
        help="hit ones, one event for each",
    )
    parser.add_argument(
        "--scan-workers", type=n_scan_workers, nargs="+", default=[1, 2], help="one stack for each"
    )
    parser.add_argument("--rounds", type=int, default=3, help="each with new stacks (default: %(default)s)")
    parser.add_argument(
        "--turns", type=int, default=3, help="of all ways at each stack in a round (default: %(default)s)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a smoke run: one turn, the first and the last of --modules"
    )
    parser.add_argument("--repository", type=Path, default=CHECKOUT / "model_repository")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scan_speed"))
    return parser


if __name__ == "__main__":
    main()
