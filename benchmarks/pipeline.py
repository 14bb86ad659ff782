"""The whole pipeline against what its model alone could do: `python -m benchmarks.pipeline`.

The pipeline is `icestream up`: a prefilled stream of events is drained until every reconstruction is stored and every
event acknowledged. The reference is the same ONNX model called by onnxruntime in this machine's best way: features
ready in memory, batches of like length and of the size that is fastest, one process of one thread for each core. Both
work through the same simulated events, round after round, in turns; the ratio is taken in each round.

With `--model direction_fast` the fast model answers, and with `--model trivial` one that costs next to nothing, so that
what is left is the limit of the transport (`--batch 64 --routers 2`). With `--records-later` that is what routers,
Triton and the broker do: reconstructions are stored in their stream, and in the recorder's database between drains.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks import stack_runs
from benchmarks.load import Drained, repeated, sample_events
from benchmarks.machine import this_machine
from benchmarks.router_batches import ROUTER_BATCH
from benchmarks.spread import rounded_spread
from benchmarks.stack_runs import RunningStack, running_stack
from benchmarks.triton_runs import events_computed_together
from benchmarks.trivial_model import model_file, write_shipped_repository, write_trivial_repository
from export.served import open_session
from icestream.physics.detector import icecube86
from icestream.physics.events import Event
from icestream.physics.features import pad_batch, pulse_features

TRIVIAL = "trivial"
MODELS = ("direction", "direction_fast", TRIVIAL)
N_SAMPLE = 2000
WIDTH = 130

_WARM_UP_EVENTS = 600

Inputs = tuple[NDArray[np.float32], NDArray[np.int32]]
"""`pulses` and `lengths` of one batch."""


@dataclass(frozen=True, slots=True)
class Round:
    """What one turn of everything gave."""

    in_process_per_s: float
    """Events/s of the model alone."""
    drained: dict[float, Drained]
    """Of the pipeline, by the share of events that are traced."""


def main() -> None:
    """Measure by the command line."""
    given = _parser().parse_args()
    console = Console(width=WIDTH)
    console.print(str(this_machine()))
    rounds = measure(
        given.model,
        given.batch,
        given.events,
        given.rounds,
        sorted({*given.traced}),
        console.print,
        n_routers=given.routers,
        records=not given.records_later,
    )
    console.print(f"load at the end: {this_machine().load_1min}")
    for table in (rate_table(rounds), cost_table(rounds)):
        console.print(table)
    given.out.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": this_machine().as_dict(),
        "settings": {
            "model": given.model,
            "batch": given.batch,
            "events": given.events,
            "routers": given.routers,
            "records_later": given.records_later,
        },
        "rounds": [asdict(one) for one in rounds],
    }
    routers = f"-{given.routers}-routers" if given.routers > 1 else ""
    later = "-records-later" if given.records_later else ""
    (given.out / f"{given.model}-{given.batch}{routers}{later}.json").write_text(
        json.dumps(content, indent=1) + "\n"
    )


def measure(
    model: str,
    batch: int,
    n_events: int,
    n_rounds: int,
    traced_shares: Sequence[float],
    report: Callable[[str], object],
    *,
    n_routers: int = 1,
    records: bool = True,
) -> list[Round]:
    """Let the model alone and the pipeline take turns.

    Args:
        model: One of `MODELS`.
        batch: Events in one of the router's requests; alone, a model computes its own batches.
        n_events: In each drain, and for the model alone.
        n_rounds: How many turns.
        traced_shares: Of events, one drain in each round for each of them.
        report: Told about each round.
        n_routers: That share the stream.
        records: Whether the recorder writes results into its database during a drain, or only between them.
    """
    write = write_trivial_repository if model == TRIVIAL else partial(write_shipped_repository, model=model)
    sample, run_ids, rounds = sample_events(N_SAMPLE), count(1), list[Round]()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="icestream-pipeline-")))
        repository = write(directory / "models", max_batch_size=batch)
        graph = model_file(repository).read_bytes()
        best_batch = batch if model == TRIVIAL else events_computed_together(model)
        cores = stack.enter_context(_cores(graph, _batches(sample, n_events, best_batch)))
        emitters = stack.enter_context(_process())
        starting = running_stack(directory / "stack", repository, {"batch": str(batch)}, n_routers=n_routers)
        running = stack.enter_context(starting)
        drain = partial(_drain, running, emitters, sample, run_ids, records=records)
        drain(_WARM_UP_EVENTS, 1.0)
        for number in range(n_rounds):
            seconds = _answer_everywhere(cores)
            drained = {share: drain(n_events, share) for share in traced_shares}
            rounds.append(Round(n_events / seconds, drained))
            rates = ", ".join(f"{one.events_per_s:.0f} at {share:.0%}" for share, one in drained.items())
            report(
                f"round {number + 1}: model alone {n_events / seconds:.0f} events/s, pipeline {rates} traced"
            )
    return rounds


def rate_table(rounds: Sequence[Round]) -> Table:
    """Events/s of both, and their ratio in each round."""
    table = Table("what", "events/s: min", "median", "max", "of the model alone: min", "median", "max")
    table.add_row("model alone", *rounded_spread([one.in_process_per_s for one in rounds], 0))
    for share in rounds[0].drained:
        rates = [one.drained[share].events_per_s for one in rounds]
        ratios = [rate / one.in_process_per_s for rate, one in zip(rates, rounds, strict=True)]
        table.add_row(f"pipeline, {share:.0%} traced", *rounded_spread(rates, 0), *rounded_spread(ratios, 3))
    return table


def cost_table(rounds: Sequence[Round]) -> Table:
    """Processor time of each process for an event, median of the rounds."""
    parts = list(next(iter(rounds[0].drained.values())).cpu_s)
    table = Table("processor time for an event, us", *parts, "all but the emitter")
    for share in rounds[0].drained:
        drains = [one.drained[share] for one in rounds]
        costs = {
            part: statistics.median(1e6 * one.cpu_s[part] / one.n_events for one in drains) for part in parts
        }
        total = sum(cost for part, cost in costs.items() if part != stack_runs.EMITTER)
        cells = [f"{costs[part]:.0f}" for part in parts]
        table.add_row(f"pipeline, {share:.0%} traced", *cells, f"{total:.0f}")
    return table


def _drain(
    stack: RunningStack,
    emitters: Executor,
    sample: Sequence[Event],
    run_ids: Iterator[int],
    n_events: int,
    traced_share: float,
    *,
    records: bool,
) -> Drained:
    return asyncio.run(
        stack_runs.drain(
            stack, emitters, sample, next(run_ids), n_events, traced_share=traced_share, records=records
        )
    )


def _batches(sample: Sequence[Event], n_events: int, batch: int) -> list[Inputs]:
    """All events as the model wants them, the short ones first."""
    detector = icecube86()
    events = list(repeated(sample, 0, n_events))
    features = [pulse_features(event.pulses, detector) for event in sample]
    rows = sorted(range(n_events), key=lambda row: len(features[row % len(sample)]))
    cut = [rows[first : first + batch] for first in range(0, n_events, batch)]
    return [
        pad_batch(
            [features[row % len(sample)] for row in chosen],
            [len(events[row].pulses) for row in chosen],
            len(features[chosen[-1] % len(sample)]),
        )
        for chosen in cut
    ]


@contextmanager
def _cores(graph: bytes, batches: Sequence[Inputs]) -> Iterator[list[Executor]]:
    """A process for each core, each with its share of the batches."""
    n_cores = os.cpu_count() or 1
    with ExitStack() as stack:
        shares = [list(batches[core::n_cores]) for core in range(n_cores)]
        cores: list[Executor] = [
            stack.enter_context(_process(partial(_load, graph, share))) for share in shares
        ]
        _answer_everywhere(cores)
        yield cores


def _process(load: Callable[[], None] | None = None) -> ProcessPoolExecutor:
    # Spawned: a fork would take this process's threads and locks along.
    spawning = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=spawning, initializer=load)


def _load(graph: bytes, batches: Sequence[Inputs]) -> None:
    """What a process of the reference keeps."""
    _kept.append((open_session(graph), batches))


def _answer_everywhere(cores: Sequence[Executor]) -> float:
    """Let all cores work through their shares at once; returns the seconds that it took."""
    started_s = time.perf_counter()
    for answering in [core.submit(_answer_share) for core in cores]:
        answering.result()
    return time.perf_counter() - started_s


def _answer_share() -> None:
    [(session, batches)] = _kept
    for pulses, lengths in batches:
        session.run(None, {"pulses": pulses, "lengths": lengths})


_kept = list[tuple[onnxruntime.InferenceSession, Sequence[Inputs]]]()
"""In a process of the reference: its session and its share."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline", description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=MODELS, default=MODELS[0], help="default: %(default)s")
    parser.add_argument(
        "--batch", type=int, default=ROUTER_BATCH, help="of the router (default: %(default)s)"
    )
    parser.add_argument("--routers", type=int, default=1, help="that share the stream (default: %(default)s)")
    parser.add_argument("--events", type=int, default=6000, help="in each drain (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument(
        "--traced", type=float, nargs="+", default=[0.0, 0.01, 1.0], help="shares of events that are traced"
    )
    parser.add_argument(
        "--records-later",
        action="store_true",
        help="hold the recorder back while a stream is drained, and let it write between drains",
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/pipeline"))
    return parser


if __name__ == "__main__":
    main()
