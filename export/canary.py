"""A small question with its known answer, so that a watcher can tell a model server that works from one that lies."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

N_ROWS = 24
LENGTHS = (24, 16, 100)
"""Full, padded, and cut from a longer event."""
TOLERANCE = 2e-3
"""Relative to the largest value of an output: room for the reduced precision of a GPU, not for any damage."""


def make_canary(graph: bytes) -> dict[str, Any]:
    """Ask a direction model the canary's question."""
    return known_answer(graph, canary_inputs(), TOLERANCE)


def known_answer(graph: bytes, inputs: Mapping[str, NDArray[Any]], tolerance: float) -> dict[str, Any]:
    """Ask any model; the result is of the form that `icestream.runtime.canary` reads."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, inputs), strict=True))
    return {"inputs": _written(inputs), "outputs": _written(outputs), "tolerance": tolerance}


def canary_inputs() -> dict[str, NDArray[Any]]:
    """Three made-up muons; numbers of one decimal, so that JSON carries them exactly as float32."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(len(LENGTHS), 1, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    times = np.sort(rng.uniform(-1000, 1000, (len(LENGTHS), N_ROWS, 1)), axis=1)
    positions = -directions * times * 0.3 + rng.normal(scale=40, size=(len(LENGTHS), N_ROWS, 3))
    charges = rng.uniform(0.5, 5, times.shape)
    is_hlc = rng.uniform(size=times.shape) < 0.7
    lengths = np.array(LENGTHS, np.int32)[:, None]
    pulses = np.concatenate((positions, times, charges, is_hlc), axis=-1).round(1).astype(np.float32)
    pulses *= np.arange(N_ROWS)[None, :, None] < lengths[..., None]
    return {"pulses": pulses, "lengths": lengths}


def _written(tensors: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    return {
        name: {"dtype": str(values.dtype), "shape": values.shape, "values": values.ravel().tolist()}
        for name, values in tensors.items()
    }
