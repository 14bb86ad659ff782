"""Says how far off each method is, and whether the model's error radii hold what they promise."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.dataset import LabelledEvents
from export.evaluation.sample import LINE_FITS, Sample
from export.presets import CPU_BATCH_EVENTS
from export.served import answer, open_session
from icestream.physics.directions import angles, opening_angles_rad
from icestream.physics.events import EventKind

MODEL = "model"
MIN_GROUP = 20
"""Smaller groups say nothing."""

FloatArray = NDArray[np.float64]
Mask = NDArray[np.bool_]
Report = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """How far every method is off, event by event."""

    angles_rad: dict[str, FloatArray]
    """Between estimate and truth, of each method; shape (n,)."""
    kappas: FloatArray
    """Of the model; shape (n,)."""
    radii_rad: FloatArray
    """The model's error radii; shape (n, 2)."""
    events_per_s: float
    """Of the model on one thread, by its CPU time."""

    @property
    def is_inside(self) -> Mask:
        """Whether the truth lies within the 50 % and the 90 % radius; shape (n, 2)."""
        return self.angles_rad[MODEL][:, None] <= self.radii_rad


def score(model: Path, sample: Sample, batch_events: int = CPU_BATCH_EVENTS) -> Scores:
    """Compare the model's answers, in batches of a size, and the line fits with the truth."""
    truth = sample.events.directions
    session = open_session(model)
    # CPU time: what else the machine does must not change a number that is published.
    began_s = time.process_time()
    answers = answer(session, sample.events, batch_events)
    events_per_s = len(sample.events) / (time.process_time() - began_s)
    angles_rad = {MODEL: opening_angles_rad(answers.directions, truth)}
    for i, name in enumerate(LINE_FITS):
        angles_rad[name] = opening_angles_rad(sample.line_fits[:, i], truth)
    return Scores(
        angles_rad, answers.kappas.astype(np.float64), answers.radii_rad.astype(np.float64), events_per_s
    )


def summarise(events: LabelledEvents, scores: Scores) -> Report:
    """Median and mean angle of every method, and the coverage of the model's radii, by groups of events."""
    groups = groups_of(events)
    return {
        "n_events": len(events),
        "events_per_s_one_thread": round(scores.events_per_s, 1),
        "groups": {name: _summary(scores, mask) for name, mask in groups.items()},
    }


def groups_of(events: LabelledEvents) -> dict[str, Mask]:
    """Name the groups of events that are reported apart; all events are always one."""
    groups = classes_of(events)
    for decade in range(2, 8):
        name = f"energy 1e{decade}-1e{decade + 1} GeV"
        groups[name] = (events.energies_gev >= 10**decade) & (events.energies_gev < 10.0 ** (decade + 1))
    zenith_deg = zeniths_deg(events)
    for low in range(0, 180, 30):
        groups[f"zenith {low}-{low + 30} deg"] = (zenith_deg >= low) & (zenith_deg < low + 30)
    return _telling(groups)


def classes_of(events: LabelledEvents) -> dict[str, Mask]:
    """Name the classes of events, as far as the truth tells them; all events are always one."""
    is_track = np.isin(events.kinds, (EventKind.THROUGH_GOING_TRACK, EventKind.STARTING_TRACK))
    return _telling(
        {
            "all": np.ones(len(events), np.bool_),
            "tracks": is_track,
            "through-going tracks": events.kinds == EventKind.THROUGH_GOING_TRACK,
            "starting tracks": events.kinds == EventKind.STARTING_TRACK,
            "cascades": events.kinds == EventKind.CASCADE,
            "tracks > 1 TeV": is_track & (events.energies_gev > 1e3),
        }
    )


def zeniths_deg(events: LabelledEvents) -> FloatArray:
    """True zenith angles; shape (n,)."""
    return np.degrees(angles(events.directions)[1])


def _telling(groups: dict[str, Mask]) -> dict[str, Mask]:
    return {name: mask for name, mask in groups.items() if name == "all" or mask.sum() >= MIN_GROUP}


def _summary(scores: Scores, mask: Mask) -> Report:
    small, large = scores.is_inside[mask].mean(0)
    return {
        "n": int(mask.sum()),
        "angle_deg": {name: _statistics(rad[mask]) for name, rad in scores.angles_rad.items()},
        "coverage": {"50": float(small), "90": float(large)},
        "median_radius_deg": dict(
            zip(("50", "90"), np.degrees(np.median(scores.radii_rad[mask], 0)).tolist(), strict=True)
        ),
    }


def _statistics(angles_rad: FloatArray) -> dict[str, float]:
    degrees = np.degrees(angles_rad)
    return {"median": float(np.median(degrees)), "mean": float(degrees.mean())}
