"""A short model of what an event costs, beside what was measured: `python -m benchmarks.cost_model`.

It reads what `python -m benchmarks.pipeline` wrote for the models that are served, and for the trivial model in at
least two batches, each time with one router and a recorder that keeps up. An event costs e + r / B + m of processor
time: e for being moved, checked, stored, acknowledged and recorded, r for a request to Triton, which B events share,
and m for the model alone, as it is measured in process. The trivial model's drains give e and r; what follows from
them for the other models is a prediction.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.pipeline import TRIVIAL
from benchmarks.stack_runs import EMITTER

UTILISATION = 0.85
"""Share of the cores that a drain keeps busy: Triton waits for the router now and then, and the router for it."""


@dataclass(frozen=True, slots=True)
class Run:
    """Medians of one run of `benchmarks.pipeline`, with 1 % of the events traced."""

    model: str
    batch: int
    n_cores: int
    in_process_per_s: float
    """Events/s of the model alone, on all cores."""
    pipeline_per_s: float
    cost_us: float
    """Processor time of all parts but the emitter, for an event."""

    @property
    def model_us(self) -> float:
        """Processor time of the model alone, for an event."""
        return self.n_cores * 1e6 / self.in_process_per_s


@dataclass(frozen=True, slots=True)
class CostModel:
    """What an event costs beside its model."""

    event_us: float
    request_us: float

    @classmethod
    def fitted(cls, runs: Sequence[Run]) -> "CostModel":
        """The best for some runs, of at least two batches.

        Raises:
            ValueError: They have all the same batch.
        """
        if len({run.batch for run in runs}) < 2:
            raise ValueError("run `python -m benchmarks.pipeline --model trivial` with two different --batch")
        columns = np.array([[1.0, 1 / run.batch] for run in runs])
        rest = np.array([run.cost_us - run.model_us for run in runs])
        event_us, request_us = np.linalg.lstsq(columns, rest)[0].tolist()
        return cls(event_us, request_us)

    def cost_us(self, run: Run) -> float:
        """Processor time that an event of this model and batch should take."""
        return self.event_us + self.request_us / run.batch + run.model_us

    def events_per_s(self, run: Run) -> float:
        """Rate that follows from it."""
        return UTILISATION * run.n_cores * 1e6 / self.cost_us(run)


def read_run(text: str) -> Run | None:
    """Read what `benchmarks.pipeline` wrote; None where it ran several routers, or without a recorder's work."""
    content = json.loads(text)
    settings = content["settings"]
    if settings["routers"] > 1 or settings["records_later"]:
        return None
    drains = [one["drained"]["0.01"] for one in content["rounds"]]
    costs_s = [
        sum(seconds for part, seconds in drain["cpu_s"].items() if part != EMITTER) / drain["n_events"]
        for drain in drains
    ]
    return Run(
        settings["model"],
        settings["batch"],
        content["machine"]["n_cores"],
        statistics.median(one["in_process_per_s"] for one in content["rounds"]),
        statistics.median(drain["n_events"] / drain["seconds"] for drain in drains),
        1e6 * statistics.median(costs_s),
    )


def table_of(costs: CostModel, runs: Sequence[Run]) -> Table:
    """Predictions beside measurements."""
    table = Table(
        "model", "batch", "us: model", "predicted", "measured", "events/s: predicted", "measured", "off by"
    )
    for run in runs:
        predicted_per_s = costs.events_per_s(run)
        table.add_row(
            *(f"{run.model}{' (fitted)' * (run.model == TRIVIAL)}", str(run.batch), f"{run.model_us:.0f}"),
            *(f"{costs.cost_us(run):.0f}", f"{run.cost_us:.0f}"),
            *(f"{predicted_per_s:.0f}", f"{run.pipeline_per_s:.0f}"),
            f"{predicted_per_s / run.pipeline_per_s - 1:+.0%}",
        )
    return table


def main() -> None:
    """Fit and print by the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cost_model", description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/pipeline"))
    files = sorted(parser.parse_args().results.glob("*.json"))
    runs = [run for file in files if (run := read_run(file.read_text()))]
    costs = CostModel.fitted([run for run in runs if run.model == TRIVIAL])
    console = Console(width=130)
    console.print(f"an event costs {costs.event_us:.0f} us + {costs.request_us:.0f} us / batch + the model")
    console.print(table_of(costs, runs))


if __name__ == "__main__":
    main()
