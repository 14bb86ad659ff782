"""Compares the served model with line fits on the same events: `python -m export.evaluate`.

The test set is simulated from a fixed seed that no training may use, or read from a data set in the Kaggle format
whose directions are known. All numbers come from the exported file, run as it is served.
"""

import argparse
import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.checkpoint import replace_file
from export.dataset import TEST_SEED, LabelledEvents, kaggle_events, label
from export.evaluation_report import draw, show
from export.served import answer, open_session
from export.to_onnx import CARD_FILE, MODEL_FILE, MODEL_NAME, next_version
from export.workers import worker_pool
from icestream.physics.detector import Detector, icecube86
from icestream.physics.directions import angles, opening_angles_rad
from icestream.physics.events import Event, EventKind, Pulses
from icestream.physics.linefit import line_fit, robust_line_fit
from icestream.physics.simulation import simulate

EVALUATION_FILE = "evaluation.json"
N_TEST = 20_000
SHARD_EVENTS = 500
MODEL = "model"
LINE_FITS = ("line fit, all pulses", "line fit, HLC", "robust line fit, HLC")
MIN_GROUP = 20
"""Smaller groups say nothing."""

FloatArray = NDArray[np.float64]
Mask = NDArray[np.bool_]
Report = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Test events and what the line fits say of them."""

    events: LabelledEvents
    line_fits: FloatArray
    """Unit vectors; shape (n, number of LINE_FITS, 3)."""


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """How far every method is off, event by event."""

    angles_rad: dict[str, FloatArray]
    """Between estimate and truth, of each method; shape (n,)."""
    radii_rad: FloatArray
    """The model's error radii; shape (n, 2)."""
    events_per_s: float
    """Of the model on one thread."""


def main() -> None:
    """Evaluate by the command line."""
    arguments = _parser().parse_args()
    folder = arguments.model or latest_version(Path("model_repository") / MODEL_NAME)
    sample = (
        read_sample(arguments.data, arguments.events)
        if arguments.data
        else simulated_sample(arguments.events, arguments.workers)
    )
    scores = score(folder / MODEL_FILE, sample)
    source = str(arguments.data) if arguments.data else f"simulation, seed {TEST_SEED}"
    report = {"data": source, **summarise(sample.events, scores)}
    show(report, f"{folder} on {len(sample.events)} events ({source})")
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / EVALUATION_FILE).write_text(json.dumps(report, indent=1) + "\n")
    draw(report, scores.angles_rad, arguments.out)
    if arguments.write_card:
        write_card(folder / CARD_FILE, report)


def write_card(path: Path, report: Report) -> None:
    """Add an evaluation to the model card that stands beside the evaluated file."""
    card = json.loads(path.read_text())
    replace_file(path, (json.dumps({**card, "evaluation": report}, indent=1) + "\n").encode())


def latest_version(model_folder: Path) -> Path:
    """The folder of the highest version that holds a model."""
    return model_folder / str(next_version(model_folder) - 1)


def simulated_sample(n_events: int, n_workers: int) -> Sample:
    """Make the fixed test set, or its first events, in worker processes."""
    firsts = range(0, n_events, SHARD_EVENTS)
    with worker_pool(n_workers) as pool:
        return _join(list(pool.map(_simulated_shard, firsts, repeat(n_events))))


def read_sample(data: Path, n_events: int) -> Sample:
    """Read the first events of a data set in the Kaggle format whose direction is known."""
    return sample_of(islice(kaggle_events(data), n_events), icecube86())


def sample_of(events: Iterable[Event], detector: Detector) -> Sample:
    """Tabulate events for the model and fit lines to them."""
    events = list(events)
    fits = [_line_fits(event.pulses, detector) for event in events]
    return Sample(label(events, detector), np.array(fits, np.float64).reshape(-1, len(LINE_FITS), 3))


def score(model: Path, sample: Sample) -> Scores:
    """Compare the model's answers and the line fits with the truth."""
    truth = sample.events.directions
    session = open_session(model)
    began_s = time.perf_counter()
    answers = answer(session, sample.events)
    events_per_s = len(sample.events) / (time.perf_counter() - began_s)
    angles_rad = {MODEL: opening_angles_rad(answers.directions, truth)}
    for i, name in enumerate(LINE_FITS):
        angles_rad[name] = opening_angles_rad(sample.line_fits[:, i], truth)
    return Scores(angles_rad, answers.radii_rad.astype(np.float64), events_per_s)


def summarise(events: LabelledEvents, scores: Scores) -> Report:
    """Median and mean angle of every method, and the coverage of the model's radii, by groups of events."""
    groups = {name: mask for name, mask in groups_of(events).items() if mask.sum() >= MIN_GROUP}
    return {
        "n_events": len(events),
        "events_per_s_one_thread": round(scores.events_per_s, 1),
        "groups": {name: _summary(scores, mask) for name, mask in groups.items()},
    }


def groups_of(events: LabelledEvents) -> dict[str, Mask]:
    """Name the groups of events that are reported apart."""
    is_track = np.isin(events.kinds, (EventKind.THROUGH_GOING_TRACK, EventKind.STARTING_TRACK))
    groups = {
        "all": np.ones(len(events), np.bool_),
        "tracks": is_track,
        "through-going tracks": events.kinds == EventKind.THROUGH_GOING_TRACK,
        "starting tracks": events.kinds == EventKind.STARTING_TRACK,
        "cascades": events.kinds == EventKind.CASCADE,
        "tracks > 1 TeV": is_track & (events.energies_gev > 1e3),
    }
    for decade in range(2, 8):
        name = f"energy 1e{decade}-1e{decade + 1} GeV"
        groups[name] = (events.energies_gev >= 10**decade) & (events.energies_gev < 10.0 ** (decade + 1))
    zenith_deg = np.degrees(angles(events.directions)[1])
    for low in range(0, 180, 30):
        groups[f"zenith {low}-{low + 30} deg"] = (zenith_deg >= low) & (zenith_deg < low + 30)
    return groups


def _summary(scores: Scores, mask: Mask) -> Report:
    is_inside = scores.angles_rad[MODEL][mask, None] <= scores.radii_rad[mask]
    return {
        "n": int(mask.sum()),
        "angle_deg": {name: _statistics(rad[mask]) for name, rad in scores.angles_rad.items()},
        "coverage": {"50": float(is_inside[:, 0].mean()), "90": float(is_inside[:, 1].mean())},
        "median_radius_deg": dict(
            zip(("50", "90"), np.degrees(np.median(scores.radii_rad[mask], 0)).tolist(), strict=True)
        ),
    }


def _statistics(angles_rad: FloatArray) -> dict[str, float]:
    degrees = np.degrees(angles_rad)
    return {"median": float(np.median(degrees)), "mean": float(degrees.mean())}


def _simulated_shard(first: int, n_events: int) -> Sample:
    """Make a part of the test set; runs in a worker process."""
    detector = icecube86()
    n_events = min(SHARD_EVENTS, n_events - first)
    return sample_of(simulate(detector, seed=TEST_SEED, first=first, n_events=n_events), detector)


def _line_fits(pulses: Pulses, detector: Detector) -> list[FloatArray]:
    """Answers of LINE_FITS, in their order."""
    hlc = pulses.is_hlc
    hlc_only = Pulses(pulses.sensor_id[hlc], pulses.time_ns[hlc], pulses.charge_pe[hlc], pulses.flags[hlc])
    return [line_fit(pulses, detector), line_fit(hlc_only, detector), robust_line_fit(pulses, detector)]


def _join(parts: Sequence[Sample]) -> Sample:
    tables = [table for part in parts for table in part.events.tables]
    columns = [
        np.concatenate([getattr(part.events, field.name) for part in parts])
        for field in fields(LabelledEvents)[1:]
    ]
    return Sample(LabelledEvents(tables, *columns), np.concatenate([part.line_fits for part in parts]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.evaluate", description="Compare the model with line fits."
    )
    parser.add_argument(
        "--model", type=Path, help="folder of a version; the newest of model_repository without it"
    )
    parser.add_argument("--data", type=Path, help="data set in the Kaggle format instead of simulated events")
    parser.add_argument(
        "--write-card", action="store_true", help="also add the result to the version's model card"
    )
    parser.add_argument("--events", type=int, default=N_TEST)
    parser.add_argument("--out", type=Path, required=True, help="folder for evaluation.json and the plots")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that simulate")
    return parser


if __name__ == "__main__":
    main()
