"""Every version in the model repository is the one of its card, and of the form that the service expects."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from benchmarks.triton_runs import events_computed_together
from export.evaluation.card import batch_events
from export.served import open_session
from icestream.physics.features import MAX_MODEL_PULSES
from icestream.runtime.canary import read_known_answer
from tests.support.shipped_model import MODELS, version_folders

DATA_TYPES = {"tensor(float)": model_config_pb2.TYPE_FP32, "tensor(int32)": model_config_pb2.TYPE_INT32}


@pytest.fixture(
    params=[folder for model in MODELS for folder in version_folders(model)],
    ids=lambda folder: f"{folder.parent.name} {folder.name}",
)
def version(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.param
    return folder


@pytest.fixture
def card(version: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((version / "model_card.json").read_text())
    return content


def test_a_shipped_model_is_the_one_of_its_card(version: Path, card: dict[str, Any]) -> None:
    content = (version / "model.onnx").read_bytes()
    assert hashlib.sha256(content).hexdigest() == card["sha256"]
    assert len(content) == card["size_bytes"]
    assert (version.parent.name, int(version.name)) == (card["model"], card["version"])


def test_a_shipped_model_answers_as_the_trained_network_did(card: dict[str, Any]) -> None:
    differences = card["torch_to_onnx"]
    assert differences["n_events"] == 1000
    assert max(differences[name] for name in ("direction", "kappa", "error_radii")) < 1e-4


def test_a_shipped_model_was_calibrated_for_the_pulses_that_it_is_shown(card: dict[str, Any]) -> None:
    assert card["max_pulses"] == MAX_MODEL_PULSES


def test_a_shipped_model_computes_the_batches_that_it_was_measured_in(
    version: Path, card: dict[str, Any]
) -> None:
    assert events_computed_together(version.parent.name) == batch_events(card)


def test_a_shipped_model_reproduces_its_canary(version: Path) -> None:
    known = read_known_answer(version / "canary.json")
    session = open_session(version / "model.onnx")
    answers = session.run(list(known.outputs), known.inputs)
    for actual, expected in zip(answers, known.outputs.values(), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_a_shipped_model_has_the_interface_of_its_configuration(version: Path) -> None:
    config = config_of(version.parent)
    session = open_session(version / "model.onnx")
    assert of_graph(session.get_inputs()) == of_config(config.input)
    assert of_graph(session.get_outputs()) == of_config(config.output)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_the_configuration_is_the_one_that_the_router_fills(model: Path) -> None:
    config = config_of(model)
    assert config.name == model.name
    assert of_config(config.input) == {
        "pulses": (model_config_pb2.TYPE_FP32, [-1, 6]),
        "lengths": (model_config_pb2.TYPE_INT32, [1]),
    }
    assert of_config(config.output) == {
        "direction": (model_config_pb2.TYPE_FP32, [3]),
        "kappa": (model_config_pb2.TYPE_FP32, [1]),
        "error_radii": (model_config_pb2.TYPE_FP32, [2]),
    }


def config_of(model: Path) -> Any:
    return text_format.Parse((model / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def of_graph(values: Sequence[onnxruntime.NodeArg]) -> dict[str, tuple[int, list[int]]]:
    """Type and shape by name, without the dimension of the batch, which must be free."""
    assert not any(isinstance(value.shape[0], int) for value in values)
    return {
        value.name: (
            DATA_TYPES[value.type],
            [size if isinstance(size, int) else -1 for size in value.shape[1:]],
        )
        for value in values
    }


def of_config(values: Sequence[Any]) -> dict[str, tuple[int, list[int]]]:
    """Type and shape by name; Triton's dimensions leave out the batch."""
    return {value.name: (value.data_type, list(value.dims)) for value in values}
