"""Tiny ONNX models with the interface of `direction`, and repositories that serve them."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from icestream.ports import ModelInput
from icestream.runtime.canary import write_known_answer

REAL_CONFIG = Path(__file__).resolve().parents[2] / "model_repository/direction/config.pbtxt"
POISON_LENGTH = -7
"""A number of pulses that makes the model fail at run time."""
OUTPUTS = ("direction", "kappa", "error_radii")


def direction_config(name: str, changes: Sequence[tuple[str, str]] = ()) -> str:
    """The real configuration under another name, with replacements that must apply."""
    text = REAL_CONFIG.read_text()
    for old, new in (('name: "direction"\nbackend', f'name: "{name}"\nbackend'), *changes):
        assert old in text, f"the real configuration has no {old!r}"
        text = text.replace(old, new)
    return text


_QUEUE_POLICY = """
  priority_levels: 2
  default_priority_level: 2
  default_queue_policy {
    max_queue_size: 8
    timeout_action: REJECT
    default_timeout_microseconds: 10000000
    allow_timeout_override: true
  }"""

SLOW_CONFIG = direction_config(
    "slow",
    [
        ("count: 2", "count: 1"),
        ("dynamic_batching {", f"dynamic_batching {{{_QUEUE_POLICY}"),
        ("max_batch_size: 32", "max_batch_size: 8"),
        ("batch_size: 32", "batch_size: 8"),
        ('"sub_batch_size"  value: { string_value: "8" }', '"sub_batch_size"  value: { string_value: "1" }'),
    ],
)
"""One instance that computes what it gets row by row, behind a short queue with priorities."""


def mean_direction_model(*, kappa_scale: float = 1.0, n_slow_products: int = 0) -> onnx.ModelProto:
    """The charge-weighted mean position as a direction; padding has no charge and so no effect.

    Args:
        kappa_scale: Marks a version by its values: kappa is this times the total charge.
        n_slow_products: Multiplies large matrices so many times, about 10 ms each.
    """
    nodes = [
        helper.make_node("Slice", ["pulses", "zero", "three", "two"], ["position"]),
        helper.make_node("Slice", ["pulses", "four", "five", "two"], ["charge"]),
        helper.make_node("Mul", ["position", "charge"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "one"], ["sum"], keepdims=0),
        helper.make_node("ReduceL2", ["sum", "one"], ["norm"], keepdims=1),
        helper.make_node("Add", ["norm", "tiny"], ["safe_norm"]),
        helper.make_node("Div", ["sum", "safe_norm"], ["direction"]),
        helper.make_node("ReduceSum", ["charge", "one"], ["total"], keepdims=0),
        # Gather refuses an index outside its table of one row: that is the poison.
        helper.make_node("Min", ["lengths", "zero_length"], ["row"]),
        helper.make_node("Gather", ["table", "row"], ["nothing"]),
        helper.make_node("Cast", ["lengths"], ["n_pulses"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["n_pulses", "nothing"], ["n"]),
        helper.make_node("Add", ["n", "one_f"], ["n_plus_one"]),
        helper.make_node("Reciprocal", ["n_plus_one"], ["inner"]),
        helper.make_node("Add", ["inner", "inner"], ["outer"]),
        helper.make_node("Concat", ["inner", "outer"], ["error_radii"], axis=1),
        *_slow_nodes(n_slow_products),
        helper.make_node("Mul", ["late_total", "kappa_scale"], ["kappa"]),
    ]
    constants: dict[str, NDArray[Any]] = {
        "zero": np.array([0], np.int64),
        "one": np.array([1], np.int64),
        "two": np.array([2], np.int64),
        "three": np.array([3], np.int64),
        "four": np.array([4], np.int64),
        "five": np.array([5], np.int64),
        "tiny": np.array(1e-9, np.float32),
        "one_f": np.array(1, np.float32),
        "none_f": np.array(0, np.float32),
        "zero_length": np.array(0, np.int32),
        "table": np.zeros(1, np.float32),
        "kappa_scale": np.array(kappa_scale, np.float32),
        "matrix": np.eye(512 if n_slow_products else 1, dtype=np.float32),
    }
    return _model("mean_direction", nodes, constants)


def length_model() -> onnx.ModelProto:
    """Answers with the length of the table that it is given, padding included, as kappa."""
    nodes = [
        helper.make_node("Shape", ["pulses"], ["length"], start=1, end=2),
        helper.make_node("Cast", ["length"], ["length_f"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["lengths"], ["n_pulses"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["n_pulses", "n_pulses"], ["none"]),
        helper.make_node("Add", ["none", "length_f"], ["kappa"]),
        helper.make_node("Concat", ["none", "none", "none"], ["direction"], axis=1),
        helper.make_node("Concat", ["none", "none"], ["error_radii"], axis=1),
    ]
    return _model("length", nodes, {})


def add_model(
    repository: Path, name: str, model: onnx.ModelProto, *, version: int = 1, config: str | None = None
) -> Path:
    """Write a model as the exporter does: the finished folder is renamed into place.

    Args:
        repository: Made if it does not exist.
        name: The model's folder.
        model: What to serve.
        version: Its folder's name.
        config: By default the real `direction` one, under the model's name.

    Returns:
        The version's folder.
    """
    folder = repository / name
    folder.mkdir(parents=True, exist_ok=True)
    config_path = folder / "config.pbtxt"
    if not config_path.exists():
        config_path.write_text(config if config is not None else direction_config(name))
    unfinished = repository.parent / f"{name}-{version}-unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    onnx.save(model, unfinished / "model.onnx")
    batch = random_batch(np.random.default_rng(1), n_events=2, length=8)
    write_known_answer(unfinished, model_inputs(batch), run_in_process(model, batch))
    return unfinished.rename(folder / str(version))


def random_batch(rng: np.random.Generator, *, n_events: int, length: int) -> ModelInput:
    """Events that fill the padded table."""
    pulses = rng.normal(size=(n_events, length, 6)).astype(np.float32)
    pulses[:, :, 4] = rng.uniform(0.1, 3.0, size=(n_events, length))
    return ModelInput(pulses=pulses, lengths=np.full((n_events, 1), length, np.int32))


def model_inputs(batch: ModelInput) -> dict[str, NDArray[Any]]:
    """The batch under the names of the model's inputs."""
    return {"pulses": batch.pulses, "lengths": batch.lengths}


def run_in_process(model: onnx.ModelProto, batch: ModelInput) -> dict[str, NDArray[np.float32]]:
    """What onnxruntime itself says."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    values = session.run(list(OUTPUTS), model_inputs(batch))
    return dict(zip(OUTPUTS, values, strict=True))


def _slow_nodes(n_products: int) -> list[onnx.NodeProto]:
    """From `total` to `late_total`, the same value, by a detour that onnxruntime cannot fold."""
    nodes = [
        helper.make_node("ReduceMax", ["total"], ["seed"], keepdims=0),
        helper.make_node("Mul", ["seed", "none_f"], ["no_seed"]),
        helper.make_node("Add", ["matrix", "no_seed"], ["product_0"]),
    ]
    nodes += [
        helper.make_node("MatMul", [f"product_{i}", "matrix"], [f"product_{i + 1}"])
        for i in range(n_products)
    ]
    return [
        *nodes,
        helper.make_node("ReduceMax", [f"product_{n_products}"], ["unity"], keepdims=0),
        helper.make_node("Mul", ["total", "unity"], ["late_total"]),
    ]


def _model(name: str, nodes: list[onnx.NodeProto], constants: dict[str, NDArray[Any]]) -> onnx.ModelProto:
    """A model with the inputs and outputs of `direction`."""
    graph = helper.make_graph(
        nodes,
        name,
        inputs=[
            helper.make_tensor_value_info("pulses", TensorProto.FLOAT, ["batch", "length", 6]),
            helper.make_tensor_value_info("lengths", TensorProto.INT32, ["batch", 1]),
        ],
        outputs=[
            helper.make_tensor_value_info("direction", TensorProto.FLOAT, ["batch", 3]),
            helper.make_tensor_value_info("kappa", TensorProto.FLOAT, ["batch", 1]),
            helper.make_tensor_value_info("error_radii", TensorProto.FLOAT, ["batch", 2]),
        ],
        initializer=[numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model
