"""How many events/s a `direction` model answers on one core, and how well: `python -m benchmarks.direction_model`.

Every model and the robust line fit work through the same simulated events of the test set's seed. A model's time is
that of onnxruntime alone, with one thread and batches of like length, as the router makes them. It is CPU time, in
which waiting for a busy core does not count; what others do to caches and clocks does, so repetitions take turns.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # No display is needed; the choice must come before pyplot is imported.

import numpy as np
import onnxruntime
from matplotlib import pyplot as plt
from numpy.typing import ArrayLike
from rich.console import Console
from rich.table import Table

from export.dataset import TEST_SEED, Batch, LabelledEvents, batches, label
from export.evaluation.sample import ROBUST
from export.evaluation.scores import classes_of
from export.served import answer, open_session
from export.to_onnx import MODEL_FILE
from icestream.physics.detector import Detector, icecube86
from icestream.physics.directions import opening_angles_rad
from icestream.physics.events import Event
from icestream.physics.linefit import robust_line_fit
from icestream.physics.simulation import simulate

BATCH_SIZES = (8, 32)
CLASSES = ("all", "tracks", "cascades")
RESULT_FILE = "direction_model.json"
PLOT_FILE = "direction_model.png"
TABLE_WIDTH = 150

Angles = Mapping[str, Mapping[str, float]]
"""Median and mean in deg, by class."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A method in one setting."""

    name: str
    batch_size: int
    angles_deg: Angles
    answer_all: Callable[[], None]
    """Works through all events once."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a contender did."""

    name: str
    batch_size: int
    angles_deg: Angles
    events_per_s: tuple[float, float, float]
    """Least, median and most of the repetitions."""


def main() -> None:
    """Measure by the command line."""
    arguments = _parser().parse_args()
    events = list(simulate(icecube86(), seed=TEST_SEED, n_events=arguments.events))
    labelled = label(events, icecube86())
    contenders = [line_fit_contender(events, labelled, icecube86())]
    for model in arguments.models:
        contenders += model_contenders(model, labelled)
    results = race(contenders, len(events), arguments.repetitions)
    _show(results, f"{len(events)} simulated events, {arguments.repetitions} repetitions")
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        content = {"n_events": len(events), "results": [asdict(result) for result in results]}
        (arguments.out / RESULT_FILE).write_text(json.dumps(content, indent=1) + "\n")
        draw(results, arguments.out / PLOT_FILE)


def line_fit_contender(events: Sequence[Event], labelled: LabelledEvents, detector: Detector) -> Contender:
    """The reference: the robust line fit, event by event."""
    directions = [robust_line_fit(event.pulses, detector) for event in events]
    return Contender(ROBUST, 1, angles_deg(directions, labelled), partial(_fit_all, events, detector))


def model_contenders(path: Path, labelled: LabelledEvents) -> list[Contender]:
    """A model with each size of batches."""
    session, name = open_session(path), str(path).removesuffix(f"/{MODEL_FILE}")
    angles = angles_deg(answer(session, labelled).directions, labelled)
    return [
        Contender(name, size, angles, partial(_answer_all, session, list(batches(labelled, size))))
        for size in BATCH_SIZES
    ]


def angles_deg(directions: ArrayLike, labelled: LabelledEvents) -> Angles:
    """Compare directions (n, 3) with the truth."""
    angles = np.degrees(opening_angles_rad(directions, labelled.directions))
    return {
        name: {"median": float(np.median(angles[mask])), "mean": float(angles[mask].mean())}
        for name, mask in classes_of(labelled).items()
        if name in CLASSES
    }


def race(
    contenders: Sequence[Contender],
    n_events: int,
    n_repetitions: int,
    clock: Callable[[], float] = time.process_time,
) -> list[Result]:
    """Let all contenders answer again and again, in turns."""
    for contender in contenders:
        # The first time allocates.
        contender.answer_all()
    times_s = np.array([[_timed(c.answer_all, clock) for c in contenders] for _ in range(n_repetitions)])
    rates = n_events / times_s
    return [
        Result(c.name, c.batch_size, c.angles_deg, (rate.min(), float(np.median(rate)), rate.max()))
        for c, rate in zip(contenders, rates.T, strict=True)
    ]


def draw(results: Sequence[Result], path: Path) -> None:
    """Plot the median angle of all events over events/s."""
    figure, axis = plt.subplots(figsize=(8, 5), layout="constrained")
    for i, name in enumerate(dict.fromkeys(result.name for result in results)):
        for result in (each for each in results if each.name == name):
            least, median, most = result.events_per_s
            angle = result.angles_deg["all"]["median"]
            error = [[median - least], [most - median]]
            marker = "o" if result.batch_size == BATCH_SIZES[0] else "s"
            axis.errorbar(median, angle, xerr=error, fmt=marker, color=f"C{i}", label=_label(result))
    axis.set(xscale="log", xlabel="events per second of CPU time", ylabel="median opening angle (deg)")
    axis.grid(alpha=0.3, which="both")
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def model_file(argument: str) -> Path:
    """The file that a command line names by itself or by its version's folder."""
    path = Path(argument)
    path = path / MODEL_FILE if path.is_dir() else path
    if not path.is_file():
        raise argparse.ArgumentTypeError(
            f"{path}: no such file; expected an .onnx file or a version's folder"
        )
    return path


def _fit_all(events: Sequence[Event], detector: Detector) -> None:
    for event in events:
        robust_line_fit(event.pulses, detector)


def _answer_all(session: onnxruntime.InferenceSession, questions: Sequence[Batch]) -> None:
    for batch in questions:
        session.run(None, {"pulses": batch.pulses, "lengths": batch.lengths})


def _timed(work: Callable[[], None], clock: Callable[[], float]) -> float:
    began_s = clock()
    work()
    return clock() - began_s


def _show(results: Sequence[Result], title: str) -> None:
    caption = "events per second of CPU time: least, median, most; angles: median / mean in deg"
    table = Table("method", "batch", "events/s", *CLASSES, title=title, caption=caption)
    for result in results:
        rates = ", ".join(f"{rate:.0f}" for rate in result.events_per_s)
        angles = (result.angles_deg.get(name, {}) for name in CLASSES)
        cells = (f"{each['median']:.2f} / {each['mean']:.2f}" if each else "-" for each in angles)
        table.add_row(result.name, str(result.batch_size), rates, *cells)
    Console(width=TABLE_WIDTH).print(table)


def _label(result: Result) -> str:
    return result.name if result.batch_size == 1 else f"{result.name}, batches of {result.batch_size}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.direction_model", description="Race exported models against the line fit."
    )
    parser.add_argument("models", type=model_file, nargs="+", help="onnx files, or folders of versions")
    parser.add_argument("--events", type=int, default=4000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path, help="folder for the numbers and a plot")
    return parser


if __name__ == "__main__":
    main()
