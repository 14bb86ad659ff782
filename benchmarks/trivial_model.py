"""A `direction` model that costs next to nothing, so that what is measured is everything around the model.

It is a line fit, weighted with charges, in closed form: the light's velocity is cov(x, t) / var(t), and as a variance
is positive, the neutrino came from the direction of -cov(x, t). Its inputs and outputs are those of `direction`, so
that every part of the stack takes it for the shipped one. Nobody should believe its kappa or its radii.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from benchmarks.triton_runs import CONFIG_FILE, changed_config, read_setting, shipped_folder
from export.canary import TOLERANCE, canary_inputs, known_answer
from icestream.runtime.canary import FILE_NAME

MODEL_NAME = "direction"
MODEL_FILE = "model.onnx"
TRIVIAL_VERSION = "1"

_OPSET = 18
_IR_VERSION = 9
_TINY = 1e-3
"""In m ns; far below any covariance, so that an event without one points up instead of nowhere."""
_RADII_RAD = (0.05, 0.15)
_UNDIVIDED = "direction_fast"
"""Its configuration says what `direction`'s does, but lets all events of a request be computed together."""


def write_trivial_repository(repository: Path, *, max_batch_size: int) -> Path:
    """Write a model repository whose `direction` is the line fit; returns `repository`."""
    graph = line_fit_model().SerializeToString()
    config = config_for(_UNDIVIDED, max_batch_size)
    return _write(repository, TRIVIAL_VERSION, graph, _answered(graph), config)


def write_shipped_repository(repository: Path, *, max_batch_size: int, model: str = MODEL_NAME) -> Path:
    """Write a model repository whose `direction` is a shipped model that takes other batches; returns `repository`."""
    shipped = shipped_folder(model).glob(f"*/{MODEL_FILE}")
    version = max((path.parent for path in shipped), key=lambda path: int(path.name))
    graph, canary = (version / MODEL_FILE).read_bytes(), (version / FILE_NAME).read_text()
    return _write(repository, version.name, graph, canary, config_for(model, max_batch_size))


def model_file(repository: Path) -> Path:
    """The graph of a repository that was written here."""
    return next((repository / MODEL_NAME).glob(f"*/{MODEL_FILE}"))


def config_for(model: str, max_batch_size: int) -> str:
    """A shipped model's configuration for one named `direction` that takes other batches."""
    config = (shipped_folder(model) / CONFIG_FILE).read_text()
    changed = changed_config(config, replace(read_setting(config), max_batch_size=max_batch_size))
    return changed.replace(f'name: "{model}"', f'name: "{MODEL_NAME}"', 1)


def line_fit_model() -> ModelProto:
    """The graph: pulses (B, L, 6) and lengths (B, 1) in, direction (B, 3), kappa (B, 1), error_radii (B, 2) out."""
    node = helper.make_node
    nodes = [
        node("Slice", ["pulses", "zero", "three", "column_axis"], ["x"]),
        node("Slice", ["pulses", "three", "four", "column_axis"], ["t"]),
        # Padding has no charge and so no weight.
        node("Slice", ["pulses", "four", "five", "column_axis"], ["charge"]),
        node("ReduceSum", ["charge", "row_axis"], ["total"]),
        node("Add", ["total", "tiny"], ["safe_total"]),
        node("Div", ["charge", "safe_total"], ["weight"]),
        node("Mul", ["t", "weight"], ["weighted_t"]),
        node("ReduceSum", ["weighted_t", "row_axis"], ["mean_t"]),
        node("Sub", ["t", "mean_t"], ["late_t"]),
        node("Mul", ["late_t", "weight"], ["weighted_late_t"]),
        # Mean positions drop out, as the times have a mean of zero.
        node("Mul", ["x", "weighted_late_t"], ["products"]),
        node("ReduceSum", ["products", "row_axis"], ["covariance"], keepdims=0),
        node("Add", ["covariance", "tiny_down"], ["shifted"]),
        node("ReduceL2", ["shifted", "row_axis"], ["length"]),
        node("Neg", ["shifted"], ["backwards"]),
        node("Div", ["backwards", "length"], ["direction"]),
        node("Cast", ["lengths"], ["kappa"], to=TensorProto.FLOAT),
        node("Mul", ["kappa", "no_radii"], ["zeros"]),
        node("Add", ["zeros", "radii"], ["error_radii"]),
    ]
    graph = helper.make_graph(
        nodes,
        MODEL_NAME,
        [
            helper.make_tensor_value_info("pulses", TensorProto.FLOAT, ["batch", "rows", 6]),
            helper.make_tensor_value_info("lengths", TensorProto.INT32, ["batch", 1]),
        ],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
            for name, size in (("direction", 3), ("kappa", 1), ("error_radii", 2))
        ],
        [numpy_helper.from_array(value, name) for name, value in _constants().items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)


def _constants() -> dict[str, NDArray[Any]]:
    return {
        "zero": np.array([0], np.int64),
        "three": np.array([3], np.int64),
        "four": np.array([4], np.int64),
        "five": np.array([5], np.int64),
        "row_axis": np.array([1], np.int64),
        "column_axis": np.array([2], np.int64),
        "tiny": np.array(_TINY, np.float32),
        "tiny_down": np.array([0, 0, -_TINY], np.float32),
        "no_radii": np.array([[0, 0]], np.float32),
        "radii": np.array([_RADII_RAD], np.float32),
    }


def _answered(graph: bytes) -> str:
    return json.dumps(known_answer(graph, canary_inputs(), TOLERANCE)) + "\n"


def _write(repository: Path, version: str, graph: bytes, canary: str, config: str) -> Path:
    folder = repository / MODEL_NAME / version
    folder.mkdir(parents=True)
    (repository / MODEL_NAME / CONFIG_FILE).write_text(config)
    (folder / MODEL_FILE).write_bytes(graph)
    (folder / FILE_NAME).write_text(canary)
    return repository
