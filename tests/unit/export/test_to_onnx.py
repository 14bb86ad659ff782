import json
from pathlib import Path

import numpy as np
import pytest
import torch

from export.canary import make_canary
from export.dataset import batches
from export.parity import parity
from export.served import open_session
from export.served_network import ServedDirection
from export.to_onnx import export_graph, next_version, publish
from icestream.runtime.canary import read_known_answer
from tests.unit.export.export_cases import CALIBRATION, random_events, random_network


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


def test_torch_and_onnxruntime_agree_on_a_thousand_events(model: ServedDirection, graph: bytes) -> None:
    differences = parity(model, graph)
    assert differences.pop("n_events") == 1000
    assert max(differences.values()) < 1e-4


def test_parity_tells_another_network_apart(graph: bytes) -> None:
    other = ServedDirection(random_network(seed=1), CALIBRATION)
    assert parity(other, graph, random_events(2, 20))["direction"] > 1e-3


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
