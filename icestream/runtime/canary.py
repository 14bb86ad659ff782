"""Asks a served model a question whose answer is known: the only proof that a model server works.

Triton's health calls go on saying "ready" when the process that computes has died, and a mismatch of numpy
versions returns wrong numbers without an error. So the exporter writes a `canary.json` beside each version's
model.onnx, with inputs and what onnxruntime made of them, and whoever watches the server asks them again.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from icestream.errors import (
    DeadlineExceeded,
    IceStreamError,
    Misconfigured,
    ModelOverloaded,
    ModelUnavailable,
    UnknownModel,
)
from icestream.ports import Answer, CallOptions

Array = NDArray[Any]

FILE_NAME = "canary.json"
TIMEOUT_S = 5.0
"""Longer than the second after which Triton reports a backend process that died."""


class Verdict(StrEnum):
    """What a canary found."""

    GOOD = "good"
    BUSY = "busy"
    """No answer in time, or a full queue: no proof of a fault."""
    NOT_LOADED = "not_loaded"
    """The server answers, but does not serve this model and version."""
    DEAD = "dead"
    """The server, or the process behind it that computes, does not work."""
    WRONG = "wrong"
    """The answer has other values than the model's."""

    @property
    def needs_restart(self) -> bool:
        """Whether only a new server process can help."""
        return self in (Verdict.DEAD, Verdict.WRONG)


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict and what it rests on."""

    verdict: Verdict
    detail: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class KnownAnswer:
    """A question to one version of a model, and the answer."""

    model: str
    version: str
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    tolerance: float
    """Relative to the largest value of an output: versions of onnxruntime differ by some 1e-7."""


class Tensors(Protocol):
    """What the canary needs of a model server."""

    async def infer_tensors(
        self, model: str, inputs: Mapping[str, Array], options: CallOptions, *, version: str = ""
    ) -> Answer:
        """Ask one version of any model; see `TritonModel.infer_tensors`."""
        ...


def known_answers(model_repository: Path) -> list[KnownAnswer]:
    """Read the newest known answer of every model that has one.

    Raises:
        Misconfigured: A file is not of the form that `write_known_answer` gives it.
    """
    found = {}
    for path in sorted(model_repository.glob(f"*/*/{FILE_NAME}"), key=_version_number):
        if path.parent.name.isdecimal():
            found[path.parent.parent.name] = path
    return [read_known_answer(path) for path in found.values()]


def read_known_answer(path: Path) -> KnownAnswer:
    """Read `<model>/<version>/canary.json`.

    Raises:
        Misconfigured: It is not of the form that `write_known_answer` gives it.
    """
    try:
        content = json.loads(path.read_bytes())
        return KnownAnswer(
            model=path.parent.parent.name,
            version=path.parent.name,
            inputs={name: _array(written) for name, written in content["inputs"].items()},
            outputs={name: _array(written) for name, written in content["outputs"].items()},
            tolerance=float(content["tolerance"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Misconfigured(f"{path} is no known answer of a model: {error}") from error


def write_known_answer(
    folder: Path, inputs: Mapping[str, Array], outputs: Mapping[str, Array], *, tolerance: float = 1e-4
) -> Path:
    """Write `canary.json` beside a version's model.onnx; the inverse of `read_known_answer`."""
    content = {
        "inputs": {name: _written(array) for name, array in inputs.items()},
        "outputs": {name: _written(array) for name, array in outputs.items()},
        "tolerance": tolerance,
    }
    path = folder / FILE_NAME
    path.write_text(json.dumps(content) + "\n")
    return path


async def canary(
    server: Tensors, known: KnownAnswer, *, n_probes: int = 1, timeout_s: float = TIMEOUT_S
) -> Finding:
    """Ask the question and compare the values.

    Args:
        server: Where to ask.
        known: What to ask, and the answer.
        n_probes: How often, one after the other. As many as the model has instances, since each is a process
            of its own that can die alone, and an idle Triton takes them in turn; at the same time it would
            merge the probes. Under load it takes longer until a probe meets the dead one.
        timeout_s: For each.

    Returns:
        The worst of the findings.
    """
    findings = [await _probe(server, known, timeout_s) for _ in range(n_probes)]
    return max(findings, key=lambda finding: list(Verdict).index(finding.verdict))


async def _probe(server: Tensors, known: KnownAnswer, timeout_s: float) -> Finding:
    # Urgent, so that a queue of bulk work does not look like a dead server.
    options = CallOptions(is_urgent=True, timeout_s=timeout_s)
    try:
        answer = await server.infer_tensors(known.model, known.inputs, options, version=known.version)
    except UnknownModel as error:
        return Finding(Verdict.NOT_LOADED, str(error))
    except (ModelOverloaded, DeadlineExceeded) as error:
        return Finding(Verdict.BUSY, str(error))
    except ModelUnavailable as error:
        return Finding(Verdict.DEAD, str(error))
    except IceStreamError as error:
        return Finding(Verdict.WRONG, f"an error instead of an answer: {error}")
    problems = [
        f"{name} {problem}"
        for name, expected in known.outputs.items()
        if (problem := _difference(answer.tensors.get(name), expected, known.tolerance))
    ]
    return Finding(Verdict.WRONG, "; ".join(problems)) if problems else Finding(Verdict.GOOD)


def _difference(actual: Array | None, expected: Array, tolerance: float) -> str:
    if actual is None:
        return "is missing"
    if actual.shape != expected.shape:
        return f"has the shape {actual.shape}, not {expected.shape}"
    if not np.allclose(actual, expected, rtol=0.0, atol=tolerance * float(np.abs(expected).max(initial=0.0))):
        return f"differs by up to {float(np.abs(actual - expected).max()):.3g}"
    return ""


def _version_number(path: Path) -> int:
    return int(path.parent.name) if path.parent.name.isdecimal() else -1


def _written(array: Array) -> dict[str, object]:
    return {"dtype": str(array.dtype), "shape": list(array.shape), "values": array.ravel().tolist()}


def _array(written: Mapping[str, Any]) -> Array:
    return np.array(written["values"], written["dtype"]).reshape(written["shape"])
