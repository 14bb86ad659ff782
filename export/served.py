"""Runs an exported model as the service does: onnxruntime, one thread, batches of like length."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from export.dataset import LabelledEvents, batches
from export.presets import CPU_BATCH_EVENTS


@dataclass(frozen=True, slots=True, eq=False)
class ServedAnswers:
    """One row per event."""

    directions: NDArray[np.float32]
    """Unit vectors; shape (n, 3)."""
    kappas: NDArray[np.float32]
    """Shape (n,)."""
    radii_rad: NDArray[np.float32]
    """Error radii of 50 % and 90 %; shape (n, 2)."""


def open_session(model: Path | bytes) -> onnxruntime.InferenceSession:
    """Load an exported model for one CPU thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def answer(
    session: onnxruntime.InferenceSession, events: LabelledEvents, batch_events: int = CPU_BATCH_EVENTS
) -> ServedAnswers:
    """Let an exported model answer for all events, in their order."""
    n = len(events)
    answers = ServedAnswers(
        np.empty((n, 3), np.float32), np.empty(n, np.float32), np.empty((n, 2), np.float32)
    )
    for batch in batches(events, batch_events):
        inputs = {"pulses": batch.pulses, "lengths": batch.lengths}
        direction, kappa, radii = session.run(["direction", "kappa", "error_radii"], inputs)
        answers.directions[batch.rows], answers.radii_rad[batch.rows] = direction, radii
        answers.kappas[batch.rows] = kappa[:, 0]
    return answers
