"""Turns kappa into error radii that hold what they promise: `python -m export.calibrate RUN`.

Split conformal calibration on events that were not trained on. One half fixes how the radii fall with kappa, the
other half their scale, with the finite-sample rank that makes the coverage at least as large as stated. Source:
Lei et al., "Distribution-free predictive inference for regression", JASA 113 (2018) 1094.
"""

import argparse
import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.checkpoint import CALIBRATION_FILE, read_settings, read_trained, replace_file
from export.command import plain_errors
from export.dataset import CALIBRATION_SEED, LabelledEvents, held_out_events, simulated_events
from export.network.direction import DirectionNetwork
from export.predict import predict
from icestream.physics.directions import opening_angles_rad

LEVELS = (0.5, 0.9)
N_CALIBRATION = 20_000
MAX_KNOTS = 24
MIN_EVENTS_PER_KNOT = 50

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Calibration:
    """The logarithms of both radii as piecewise linear functions of log kappa, constant outside the knots."""

    log_kappa: tuple[float, ...]
    """Knots, rising."""
    log_radii: tuple[tuple[float, float], ...]
    """Of the 50 % and the 90 % radius in rad at each knot, falling."""
    n_events: int
    """Calibration events."""
    n_training_events: int
    """Events that the calibrated network had seen: another number means another network."""


class RadiusCurve(nn.Module):
    """A calibration as part of the served graph."""

    knots: Tensor
    widths: Tensor
    slopes: Tensor
    start: Tensor

    def __init__(self, calibration: Calibration) -> None:
        super().__init__()
        knots = torch.tensor(calibration.log_kappa, dtype=torch.float64)
        values = torch.tensor(calibration.log_radii, dtype=torch.float64)
        widths = knots.diff()
        self.register_buffer("knots", knots[:-1].float())
        self.register_buffer("widths", widths.float())
        self.register_buffer("slopes", (values.diff(dim=0) / widths[:, None]).float())
        self.register_buffer("start", values[0].float())

    def forward(self, kappa: Tensor) -> Tensor:
        """Map kappa (B, 1) to the 50 % and 90 % radii in rad (B, 2)."""
        # How far log kappa reaches into each interval, between nothing and all of it.
        covered = torch.minimum((kappa.log() - self.knots).relu(), self.widths)
        return (self.start + covered @ self.slopes).exp().clamp_max(math.pi)


@plain_errors()
def main() -> None:
    """Calibrate a run by the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m export.calibrate", description="Calibrate the error radii."
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--events", type=int, default=N_CALIBRATION)
    arguments = parser.parse_args()
    calibration = calibrate_run(arguments.run, arguments.events)
    print("kappa     radius50  radius90 (deg)")
    for log_kappa, radii in zip(calibration.log_kappa, calibration.log_radii, strict=True):
        small, large = np.degrees(np.exp(radii))
        print(f"{math.exp(log_kappa):8.3g} {small:8.2f} {large:8.2f}")


def calibrate_run(run: Path, n_events: int = N_CALIBRATION) -> Calibration:
    """Calibrate a run's averaged network and store the result with the run."""
    trained = read_trained(run)
    calibration = calibrate(trained.average, calibration_events(run, n_events), trained.n_events)
    replace_file(run / CALIBRATION_FILE, json.dumps(dataclasses.asdict(calibration), indent=1).encode())
    return calibration


def calibration_of(run: Path, n_training_events: int) -> Calibration:
    """Read a run's calibration, or make it where there is none of this network."""
    path = run / CALIBRATION_FILE
    if path.exists():
        content = json.loads(path.read_text())
        content["log_radii"] = tuple(tuple(radii) for radii in content["log_radii"])
        content["log_kappa"] = tuple(content["log_kappa"])
        calibration = Calibration(**content)
        if calibration.n_training_events == n_training_events:
            return calibration
    return calibrate_run(run)


def calibration_events(run: Path, n_events: int) -> LabelledEvents:
    """Make or read events of the kind that the run was trained on, but none of those."""
    data = read_settings(run).data
    return held_out_events(Path(data), n_events) if data else simulated_events(CALIBRATION_SEED, 0, n_events)


def calibrate(network: DirectionNetwork, events: LabelledEvents, n_training_events: int) -> Calibration:
    """Fit the radii to what a network answers."""
    answers = predict(network, events)
    angles = opening_angles_rad(answers.directions, events.directions)
    log_kappa, log_radii = fit_radii(answers.kappas.astype(np.float64), angles)
    pairs = tuple((float(small), float(large)) for small, large in log_radii)
    return Calibration(tuple(log_kappa.tolist()), pairs, len(events), n_training_events)


def fit_radii(kappas: FloatArray, angles_rad: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Fit both radii as falling functions of kappa.

    Args:
        kappas: Shape (n,), in an order that says nothing of the events.
        angles_rad: Between the answers and the truth; shape (n,).

    Returns:
        log kappa of the K knots, and the logarithms of the radii there, of shape (K, 2).
    """
    log_kappa, angles_rad = np.log(np.maximum(kappas, 1e-9)), np.maximum(angles_rad, 1e-6)
    shape_half, scale_half = slice(0, None, 2), slice(1, None, 2)
    knots, shapes = _shape(log_kappa[shape_half], angles_rad[shape_half])
    columns = [
        _rescaled(knots, shape, log_kappa[scale_half], angles_rad[scale_half], level)
        for shape, level in zip(shapes.T, LEVELS, strict=True)
    ]
    radii = np.minimum(np.stack(columns, axis=-1), math.log(math.pi))
    radii[:, 1] = np.maximum(radii[:, 0], radii[:, 1])
    return knots, radii


def conformal_quantile(scores: FloatArray, level: float) -> float:
    """The smallest value that covers a new score with at least this probability."""
    rank = min(math.ceil((len(scores) + 1) * level), len(scores))
    return float(np.partition(scores, rank - 1)[rank - 1])


def falling(values: FloatArray) -> FloatArray:
    """The closest sequence that never rises, by pooling neighbours that do; shape (n,)."""
    pools: list[tuple[float, int]] = []
    for value in values:
        mean, size = float(value), 1
        while pools and pools[-1][0] < mean:
            other, other_size = pools.pop()
            mean, size = (mean * size + other * other_size) / (size + other_size), size + other_size
        pools.append((mean, size))
    return np.concatenate([np.full(size, mean) for mean, size in pools])


def _shape(log_kappa: FloatArray, angles_rad: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Log radii of groups of events of like kappa: knots (K,), radii (K, 2)."""
    n_knots = max(2, min(MAX_KNOTS, len(log_kappa) // MIN_EVENTS_PER_KNOT))
    groups = np.array_split(np.argsort(log_kappa, kind="stable"), n_knots)
    knots = np.array([np.median(log_kappa[group]) for group in groups])
    # Strictly rising, also where a network states one kappa for many events.
    knots = np.maximum.accumulate(knots) + 1e-4 * np.arange(n_knots)
    quantiles = [[conformal_quantile(angles_rad[group], level) for level in LEVELS] for group in groups]
    columns = np.log(np.array(quantiles)).T
    return knots, np.stack([falling(column) for column in columns], axis=-1)


def _rescaled(
    knots: FloatArray, shape: FloatArray, log_kappa: FloatArray, angles_rad: FloatArray, level: float
) -> FloatArray:
    """Shift a curve of log radii so that it covers the share `level` of other events."""
    return shape + conformal_quantile(np.log(angles_rad) - np.interp(log_kappa, knots, shape), level)


if __name__ == "__main__":
    main()
