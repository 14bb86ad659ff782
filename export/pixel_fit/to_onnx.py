"""Writes the pixel fits into a Triton model repository: `python -m export.pixel_fit.to_onnx track`.

Nothing of them is learned, so that the same source gives the same numbers anywhere.
"""

import argparse
import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from export.canary import TOLERANCE, known_answer
from export.command import plain_errors
from export.pixel_fit.cascade import CascadeFit
from export.pixel_fit.track import TrackFit
from export.to_onnx import CANARY_FILE, CARD_FILE, MODEL_FILE, OPSET, publish, without_traces

Tensors = Mapping[str, NDArray[Any]]
N_PARITY_PIXELS = 192
"""All of the sky at nside 4."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One pixel fit: how it is made and what it is asked and answers."""

    make: Callable[[], nn.Module]
    question: Callable[[int], dict[str, NDArray[Any]]]
    """Made-up inputs for a number of pixels, in the order of the model's arguments."""
    free_sizes: Mapping[str, tuple[str, ...]]
    """Names of the free dimensions of each input, from the first."""
    outputs: tuple[str, ...]
    about: str


@plain_errors()
def main() -> None:
    """Export by the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m export.pixel_fit.to_onnx", description="Export a pixel fit as a Triton version."
    )
    parser.add_argument("hypothesis", choices=sorted(HYPOTHESES))
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--version", type=int, default=1, help="is replaced where it exists")
    arguments = parser.parse_args()
    folder = export_hypothesis(arguments.hypothesis, arguments.repository, arguments.version)
    print(f"{folder}: {(folder / MODEL_FILE).stat().st_size / 1e6:.2f} MB")


def export_hypothesis(name: str, repository: Path, version: int) -> Path:
    """Write a version of `pixel_fit_<name>`; returns its folder."""
    hypothesis = HYPOTHESES[name]
    module = hypothesis.make().eval()
    graph = graph_of(hypothesis, module)
    question = hypothesis.question(8)
    card = {
        "model": f"pixel_fit_{name}",
        "version": version,
        "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "about": hypothesis.about,
        "torch_to_onnx": parity(hypothesis, module, graph),
        "sha256": hashlib.sha256(graph).hexdigest(),
        "size_bytes": len(graph),
        "made_with": {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__, "opset": OPSET},
    }
    files = {
        MODEL_FILE: graph,
        CARD_FILE: _json(card),
        CANARY_FILE: _json(known_answer(graph, question, TOLERANCE)),
    }
    return publish(repository / f"pixel_fit_{name}", version, files)


def graph_of(hypothesis: Hypothesis, module: nn.Module) -> bytes:
    """Translate a fit into one ONNX file that takes any number of pixels and hits."""
    example = hypothesis.question(7)
    sizes = {name: torch.export.Dim(name) for names in hypothesis.free_sizes.values() for name in names}
    shapes = tuple(
        {i: sizes[size] for i, size in enumerate(hypothesis.free_sizes.get(name, ()))} for name in example
    )
    with warnings.catch_warnings():
        # Of the exporter itself; nothing here can avoid them.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            tuple(torch.from_numpy(value) for value in example.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(example),
            output_names=list(hypothesis.outputs),
            dynamic_shapes=shapes,
            verbose=False,
        )
    assert program is not None
    model = without_traces(program.model_proto)
    _strip_loops(model.graph)
    graph: bytes = model.SerializeToString()
    return graph


def parity(hypothesis: Hypothesis, module: nn.Module, graph: bytes) -> dict[str, float]:
    """Median difference between torch and onnxruntime, by output, relative to the output's largest value.

    Single pixels differ by more: a step that is just taken, or just not, can end in another minimum.
    """
    question = hypothesis.question(N_PARITY_PIXELS)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    answers = session.run(list(hypothesis.outputs), question)
    with torch.no_grad():
        expected = module(*(torch.from_numpy(value) for value in question.values()))
    return {
        name: float(np.median(np.abs(answer - value.numpy())) / np.abs(value.numpy()).max())
        for name, answer, value in zip(hypothesis.outputs, answers, expected, strict=True)
    }


def track_question(n_pixels: int) -> dict[str, NDArray[Any]]:
    """A made-up muon from straight above and directions around it; numbers that JSON carries exactly as float32."""
    rng = np.random.default_rng(0)
    direction = rng.normal(size=(n_pixels, 3)) * 0.3 + (0.0, 0.0, 1.0)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    places = rng.uniform(-300, 300, (24, 3)) * (0.3, 0.3, 1.0)
    away = np.hypot(places[:, 0], places[:, 1])
    times = -places[:, 2] / 0.2998 + 3.5 * away + rng.exponential(1 + away, 24)
    hits = np.column_stack((places, times, rng.uniform(0.5, 6, 24)))
    # Two tries: the exporter takes a size of 1 for a constant.
    seeds = np.zeros((n_pixels, 2, 4))
    seeds[:, 1, :3] = 20.0
    dark = np.column_stack((rng.uniform(-400, 400, (16, 3)), np.ones(16), np.full(16, 4.0)))
    return {
        "direction": direction.astype(np.float32).round(4),
        "seeds": seeds.astype(np.float32),
        "hits": hits.round(1).astype(np.float32),
        "dark": dark.round(1).astype(np.float32),
        "level": np.array([1], np.int32),
        "max_photons": np.array([8.0], np.float32),
    }


def cascade_question(n_pixels: int) -> dict[str, NDArray[Any]]:
    """A made-up shower that shines downwards, and directions around the vertical."""
    rng = np.random.default_rng(0)
    direction = rng.normal(size=(n_pixels, 3)) * 0.3 + (0.0, 0.0, 1.0)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    # Strings on a grid of 80 m with modules every 20 m.
    grid = np.stack(
        np.meshgrid(np.arange(-120, 121, 80), np.arange(-120, 121, 80), np.arange(-80, 81, 20)), -1
    )
    places = grid.reshape(-1, 3).astype(np.float64)
    away = np.linalg.norm(places - (10.0, -15.0, 5.0), axis=1)
    expected = 300 * np.exp(-away / 30) * (1.0 - 0.5 * (places[:, 2] - 5.0) / away)
    charge = np.where(rng.uniform(size=len(away)) < 0.9, rng.poisson(expected), 0)
    times = away * 4.5 + rng.exponential(1 + away, len(away))
    modules = np.column_stack((places, charge, np.ones(len(away))))
    hits = np.column_stack((places, times, charge))[np.argsort(-charge, kind="stable")[:24]]
    # Two tries: the exporter takes a size of 1 for a constant.
    seeds = np.zeros((n_pixels, 2, 4))
    seeds[:, 1, 2] = 30
    return {
        "direction": direction.astype(np.float32).round(4),
        "seeds": seeds.astype(np.float32),
        "hits": hits.round(1).astype(np.float32),
        "modules": modules.round(1).astype(np.float32),
        "level": np.array([0], np.int32),
        "max_photons": np.array([20.0], np.float32),
    }


def _strip_loops(graph: Any) -> None:  # a message of protobuf, whose fields onnx does not type
    """Drop the exporter's notes from the bodies of loops, too: most of the file, and paths of this machine."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                for inner in attribute.g.node:
                    del inner.metadata_props[:]
                    inner.doc_string = ""
                for value in (*attribute.g.input, *attribute.g.output, *attribute.g.initializer):
                    del value.metadata_props[:]
                del attribute.g.metadata_props[:]
                del attribute.g.value_info[:]
                _strip_loops(attribute.g)


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


HYPOTHESES = {
    "cascade": Hypothesis(
        make=CascadeFit,
        question=cascade_question,
        free_sizes={
            "direction": ("pixels",),
            "seeds": ("pixels", "tries"),
            "hits": ("n_hits",),
            "modules": ("n_modules",),
        },
        outputs=("llh", "timing_llh", "position", "time", "energy_gev"),
        about="Profile likelihood of a point-like shower over its place, time and energy.",
    ),
    "track": Hypothesis(
        make=TrackFit,
        question=track_question,
        free_sizes={
            "direction": ("pixels",),
            "seeds": ("pixels", "tries"),
            "hits": ("n_hits",),
            "dark": ("n_dark",),
        },
        outputs=("llh", "timing_llh", "position", "time"),
        about="Profile likelihood of an infinite muon track over two transverse coordinates and time.",
    ),
}

if __name__ == "__main__":
    main()
