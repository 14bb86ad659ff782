"""The model that the repository ships, and simulated events to ask any model about, as the router would."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from icestream.physics.detector import icecube86
from icestream.physics.events import Event
from icestream.physics.features import FeatureArray, pad_batch, pulse_features
from icestream.physics.simulation import simulate
from icestream.ports import ModelInput
from icestream.runtime.local_stack import CHECKOUT
from services.router.reconstruction import plan_batches

REPOSITORY = CHECKOUT / "model_repository"
MODEL = REPOSITORY / "direction"
FAST_MODEL = REPOSITORY / "direction_fast"
MODELS = (MODEL, FAST_MODEL)
"""All that tell directions."""
OUTPUTS = ("direction", "kappa", "error_radii")
BATCH = 8
LENGTH_STEP = 16
"""At lengths that are multiples of it sums over pulses are made in one order, so that answers are equal to the bit."""

Tensors = Sequence[NDArray[np.float32]]
"""The model's three outputs, in the order of `OUTPUTS`."""


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What a model says of n events."""

    direction: NDArray[np.float32]
    """Unit vectors; shape (n, 3)."""
    kappa: NDArray[np.float32]
    """Shape (n, 1)."""
    radii_rad: NDArray[np.float32]
    """Of 50 % and 90 %; shape (n, 2)."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """A question about some of the events."""

    rows: Sequence[int]
    input: ModelInput


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """Events as the model reads them."""

    tables: Sequence[FeatureArray]
    n_pulses: Sequence[int]
    """Pulses before selection."""

    @classmethod
    def about(cls, events: Sequence[Event]) -> Self:
        """Select each event's pulses."""
        return cls(
            [pulse_features(event.pulses, icecube86()) for event in events],
            [len(event.pulses) for event in events],
        )

    def changed(self, change: Callable[[FeatureArray], FeatureArray]) -> Self:
        """The same with each table changed."""
        return replace(self, tables=[change(table) for table in self.tables])

    def batches(self, *, extra_rows: int = 0) -> list[Batch]:
        """Events of like length together, padded to multiples of `LENGTH_STEP`, and further where asked for."""
        batches = plan_batches(range(len(self.tables)), lambda row: len(self.tables[row]), BATCH)
        return [Batch(rows, self._input(rows, extra_rows)) for rows in batches]

    def _input(self, rows: Sequence[int], extra_rows: int) -> ModelInput:
        longest = max(len(self.tables[row]) for row in rows)
        length = -(-longest // LENGTH_STEP) * LENGTH_STEP + extra_rows
        tables, n_pulses = [self.tables[row] for row in rows], [self.n_pulses[row] for row in rows]
        return ModelInput(*pad_batch(tables, n_pulses, length))


def version_folders(model: Path = MODEL) -> list[Path]:
    """Every version of a model that is shipped, the oldest first."""
    folders = [path.parent for path in model.glob("*/model.onnx") if path.parent.name.isdecimal()]
    return sorted(folders, key=lambda folder: int(folder.name))


def newest_version(model: Path = MODEL) -> Path:
    """The folder of the version that answers where a request names none."""
    return version_folders(model)[-1]


@cache
def simulated_events(n_events: int, seed: int = 701) -> Sequence[Event]:
    """Triggered events of every kind; the same for all tests, which must not change them."""
    return tuple(simulate(icecube86(), seed=seed, n_events=n_events))


def ask(session: onnxruntime.InferenceSession, question: Question, *, extra_rows: int = 0) -> Answers:
    """Let onnxruntime answer, one row per event."""
    batches = question.batches(extra_rows=extra_rows)
    return in_order(batches, [run(session, batch.input) for batch in batches])


def run(session: onnxruntime.InferenceSession, batch: ModelInput) -> Tensors:
    """Let onnxruntime answer for one batch."""
    outputs: Tensors = session.run(OUTPUTS, {"pulses": batch.pulses, "lengths": batch.lengths})
    return outputs


def in_order(batches: Sequence[Batch], outputs: Sequence[Tensors]) -> Answers:
    """Put the answers for batches into the order of the events."""
    order = np.argsort(np.concatenate([batch.rows for batch in batches]))
    direction, kappa, radii = (np.concatenate(parts)[order] for parts in zip(*outputs, strict=True))
    return Answers(direction, kappa, radii)


def assert_same(actual: Answers, expected: Answers, tolerance: float) -> None:
    """Compare every event's answer: kappa relative to itself, the others as they are."""
    np.testing.assert_allclose(actual.direction, expected.direction, rtol=0, atol=tolerance)
    np.testing.assert_allclose(actual.kappa, expected.kappa, rtol=tolerance, atol=0)
    np.testing.assert_allclose(actual.radii_rad, expected.radii_rad, rtol=0, atol=tolerance)


def angles_rad(actual: NDArray[np.floating], expected: NDArray[np.floating]) -> NDArray[np.float64]:
    """Angles between rows of unit vectors, exact also where they are tiny; shape (n,)."""
    actual, expected = actual.astype(np.float64), expected.astype(np.float64)
    apart, together = np.linalg.norm(actual - expected, axis=1), np.linalg.norm(actual + expected, axis=1)
    angles: NDArray[np.float64] = 2 * np.arctan2(apart, together)
    return angles
