import hashlib
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from export.canary import make_canary
from export.dataset import batches
from export.served import open_session
from export.to_onnx import ServedDirection, export_graph, next_version, publish
from icestream.runtime.canary import read_known_answer
from tests.unit.export.export_cases import CALIBRATION, random_events, random_network

SHIPPED = Path(__file__).resolve().parents[3] / "model_repository/direction/1"


@pytest.fixture(scope="module")
def model() -> ServedDirection:
    return ServedDirection(random_network(), CALIBRATION)


@pytest.fixture(scope="module")
def graph(model: ServedDirection) -> bytes:
    return export_graph(model)


def test_onnxruntime_answers_as_torch_does_at_any_size(model: ServedDirection, graph: bytes) -> None:
    session = open_session(graph)
    for batch in batches(random_events(1, 40), 7):
        inputs = {"pulses": batch.pulses, "lengths": batch.lengths}
        with torch.no_grad():
            expected = model(*(torch.from_numpy(value) for value in inputs.values()))
        for actual, wanted in zip(session.run(None, inputs), expected, strict=True):
            np.testing.assert_allclose(actual, wanted.numpy(), atol=1e-4, rtol=1e-4)


def test_exported_file_says_nothing_of_the_machine_it_was_made_on(graph: bytes) -> None:
    assert str(Path(__file__).resolve().parents[3]).encode() not in graph
    assert b"site-packages" not in graph


def test_canary_is_of_the_form_that_the_watcher_reads(graph: bytes, tmp_path: Path) -> None:
    path = publish(tmp_path / "direction", 1, {"canary.json": json.dumps(make_canary(graph)).encode()})
    known = read_known_answer(path / "canary.json")
    assert known.inputs["pulses"].dtype == np.float32
    assert set(known.outputs) == {"direction", "kappa", "error_radii"}


def test_versions_are_counted_from_those_that_hold_a_model(tmp_path: Path) -> None:
    assert next_version(tmp_path / "missing") == 1
    for version in (1, 2, 10):
        publish(tmp_path, version, {"model.onnx": b"x"})
    (tmp_path / "11").mkdir()
    (tmp_path / "config.pbtxt").touch()
    assert next_version(tmp_path) == 11


def test_a_version_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        publish(tmp_path, 1, {"model.onnx": b"x", "model_card.json": None})  # type: ignore[dict-item]
    assert list(tmp_path.iterdir()) == []


def test_replacing_a_version_leaves_nothing_of_the_old_one(tmp_path: Path) -> None:
    publish(tmp_path, 3, {"model.onnx": b"old", "notes.txt": b"old"})
    folder = publish(tmp_path, 3, {"model.onnx": b"new"})
    assert [path.name for path in folder.iterdir()] == ["model.onnx"]
    assert (folder / "model.onnx").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["3"]


def test_shipped_model_reproduces_its_canary() -> None:
    known = read_known_answer(SHIPPED / "canary.json")
    session = open_session(SHIPPED / "model.onnx")
    answers = session.run(list(known.outputs), known.inputs)
    for actual, expected in zip(answers, known.outputs.values(), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_shipped_model_has_the_interface_of_the_service() -> None:
    session = open_session(SHIPPED / "model.onnx")
    assert [described(value) for value in session.get_inputs()] == [
        ("pulses", "tensor(float)", [None, None, 6]),
        ("lengths", "tensor(int32)", [None, 1]),
    ]
    assert [described(value) for value in session.get_outputs()] == [
        ("direction", "tensor(float)", [None, 3]),
        ("kappa", "tensor(float)", [None, 1]),
        ("error_radii", "tensor(float)", [None, 2]),
    ]


def test_shipped_model_is_the_one_of_its_card() -> None:
    card = json.loads((SHIPPED / "model_card.json").read_text())
    assert hashlib.sha256((SHIPPED / "model.onnx").read_bytes()).hexdigest() == card["sha256"]


def described(value: onnxruntime.NodeArg) -> tuple[str, str, list[int | None]]:
    """Name, type and shape, with None where any size will do."""
    return value.name, value.type, [size if isinstance(size, int) else None for size in value.shape]
