"""The shipped track fit is the one of the source, takes any event, and never answers with nonsense."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from google.protobuf import text_format
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2

from export.pixel_fit.track import STAGES, TrackFit
from export.served import open_session
from icestream.runtime.canary import read_known_answer
from icestream.runtime.local_stack import CHECKOUT
from icestream.scans.recos.track import MODEL
from tests.unit.export.pixel_fit.track_cases import PHOTONS, Question, around, question, simulated_cases

FOLDER = CHECKOUT / "model_repository" / MODEL
OUTPUTS = ("llh", "timing_llh", "position", "time")
DATA_TYPES = {
    "tensor(float)": model_config_pb2.TYPE_FP32,
    "tensor(int32)": model_config_pb2.TYPE_INT32,
}
levels = pytest.mark.parametrize("level", range(len(STAGES)))
HITS = np.array(
    [[0, 0, 0, 0, 1], [10, 5, 50, 170, 2], [-20, 8, 100, 330, 1], [3, 30, 150, 500, 9], [1, 2, 200, 670, 1]],
    np.float32,
)
"""As few as a fit takes."""


@pytest.fixture(scope="module")
def version() -> Path:
    folders = [path.parent for path in FOLDER.glob("*/model.onnx") if path.parent.name.isdecimal()]
    return max(folders, key=lambda folder: int(folder.name))


@pytest.fixture(scope="module")
def session(version: Path) -> onnxruntime.InferenceSession:
    return open_session(version / "model.onnx")


@pytest.fixture(scope="module")
def fit() -> TrackFit:
    return TrackFit().eval()


def ask_torch(fit: TrackFit, inputs: Question) -> list[NDArray[Any]]:
    with torch.no_grad():
        return [answer.numpy() for answer in fit(*(torch.from_numpy(v.copy()) for v in inputs.values()))]


def test_it_is_the_one_of_its_card(version: Path) -> None:
    content = (version / "model.onnx").read_bytes()
    card = json.loads((version / "model_card.json").read_text())

    assert hashlib.sha256(content).hexdigest() == card["sha256"]
    assert len(content) == card["size_bytes"]
    assert (MODEL, int(version.name)) == (card["model"], card["version"])
    assert max(card["torch_to_onnx"].values()) < 1e-5


def test_it_has_the_interface_of_its_configuration(session: onnxruntime.InferenceSession) -> None:
    config = text_format.Parse((FOLDER / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())

    assert config.name == MODEL
    assert of_graph(session.get_inputs()) == of_config(config.input)
    assert of_graph(session.get_outputs()) == of_config(config.output)
    assert [value.name for value in session.get_inputs()] == list(
        question(np.zeros((1, 3)), np.zeros((1, 4)), HITS, 0, 1)
    )
    assert [value.name for value in session.get_outputs()] == list(OUTPUTS)


def of_graph(values: Sequence[onnxruntime.NodeArg]) -> dict[str, tuple[int, list[int]]]:
    """Type and shape by name; -1 is a free size."""
    return {
        value.name: (DATA_TYPES[value.type], [size if isinstance(size, int) else -1 for size in value.shape])
        for value in values
    }


def of_config(values: Sequence[Any]) -> dict[str, tuple[int, list[int]]]:
    return {value.name: (value.data_type, list(value.dims)) for value in values}


def test_it_reproduces_its_canary(version: Path, session: onnxruntime.InferenceSession) -> None:
    known = read_known_answer(version / "canary.json")
    assert list(known.outputs) == list(OUTPUTS)

    answers = session.run(list(known.outputs), known.inputs)

    for actual, expected in zip(answers, known.outputs.values(), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=known.tolerance * np.abs(expected).max())


def test_the_source_answers_the_canary_as_well(version: Path, fit: TrackFit) -> None:
    known = read_known_answer(version / "canary.json")

    answers = ask_torch(fit, dict(known.inputs))

    for actual, expected in zip(answers, known.outputs.values(), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=known.tolerance * np.abs(expected).max())


@levels
@pytest.mark.parametrize(("n_pixels", "n_seeds"), [(1, 1), (13, 2), (40, 3)])
def test_it_fits_as_its_source_does(
    session: onnxruntime.InferenceSession, fit: TrackFit, level: int, n_pixels: int, n_seeds: int
) -> None:
    rng = np.random.default_rng(n_pixels)
    differences: list[NDArray[np.float64]] = []
    for case in simulated_cases(5):
        directions = around(case.direction, n_pixels, 0.02)
        seeds = np.tile(case.seed, (n_pixels, n_seeds, 1)) + rng.normal(size=(n_seeds, 4))
        # As in a scan: each level begins where the one before it ended.
        for before in range(level):
            inputs = question(directions, seeds, case.hits, before, PHOTONS[before])
            _, _, position, time = session.run(list(OUTPUTS), inputs)
            seeds = np.column_stack((position, time))[:, None] + rng.normal(size=(n_seeds, 4))
        inputs = question(directions, seeds, case.hits, level, PHOTONS[level])
        answers, expected = session.run(list(OUTPUTS), inputs), ask_torch(fit, inputs)
        for actual, value in zip(answers, expected, strict=True):
            assert actual.shape == value.shape
            assert actual.dtype == np.float32
        differences.append(np.abs(answers[0] - expected[0]) / expected[0])
    # Minima lie beside each other, between which a rounding error decides where a fit has not converged.
    together = np.concatenate(differences)
    assert np.median(together) < 1e-5
    assert np.mean(together < 1e-4) >= (0.7, 0.9, 0.9, 0.9)[level]
    assert together.max() < 0.1


AWKWARD = {
    "as few hits as a fit takes": HITS,
    "a single hit": HITS[:1],
    "identical hits": np.repeat(HITS[1:2], 8, axis=0),
    "hits of one place": HITS * np.array([0, 0, 0, 1, 1], np.float32),
    "hits of one time": HITS * np.array([1, 1, 1, 0, 1], np.float32),
    "hits of one string": HITS * np.array([0, 0, 1, 1, 1], np.float32),
    "no charge": HITS * np.array([1, 1, 1, 1, 0], np.float32),
    "negative charge": HITS * np.array([1, 1, 1, 1, -1], np.float32),
    "huge charge": HITS * np.array([1, 1, 1, 1, 1e6], np.float32),
    "late times": HITS + np.array([0, 0, 0, 1e6, 0], np.float32),
    "early times": HITS - np.array([0, 0, 0, 1e6, 0], np.float32),
    "times far apart": HITS * np.array([1, 1, 1, 1e4, 1], np.float32),
    "one hit far away": np.vstack((HITS, [[0, 0, 0, 1e6, 1]])).astype(np.float32),
    "far outside of the detector": HITS * np.array([100, 100, 100, 1, 1], np.float32),
}


@levels
@pytest.mark.parametrize("name", AWKWARD)
def test_finite_hits_have_finite_answers(
    session: onnxruntime.InferenceSession, name: str, level: int
) -> None:
    hits = AWKWARD[name]
    vertical_and_level = np.array([[0, 0, 1], [0, 0, -1], [1, 0, 0], [0, -1, 0], [0.43589, 0, 0.9]])
    directions = np.vstack((vertical_and_level, around(np.array([0.6, 0.0, 0.8]), 20, 2.0)))
    seeds = np.stack([np.zeros(4), hits[:, :4].mean(axis=0)])

    for max_photons in (1, 20):
        answers = session.run(list(OUTPUTS), question(directions, seeds, hits, level, max_photons))
        for answer in answers:
            assert np.isfinite(answer).all()


@levels
@pytest.mark.parametrize("away", [1e3, 1e4, 1e6])
def test_seeds_far_off_have_finite_answers(
    session: onnxruntime.InferenceSession, away: float, level: int
) -> None:
    seeds = away * np.array([[1.0, 1.0, -1.0, 0.0], [0.0, 0.0, 0.0, 1.0], [-1.0, 0.0, 1.0, -1.0]])

    answers = session.run(
        list(OUTPUTS), question(around(np.array([0.0, 0.6, 0.8]), 20, 2.0), seeds, HITS, level, 20)
    )

    for answer in answers:
        assert np.isfinite(answer).all()
    # Noise explains anything; what MPE adds for a hit is at most this much better than noise.
    assert answers[1].max() < 5 * 11.6


def test_a_brighter_module_counts_as_more_photons_up_to_the_limit(
    session: onnxruntime.InferenceSession,
) -> None:
    def llh(charge_pe: float, max_photons: float) -> float:
        hits = HITS.copy()
        hits[:, 4] = charge_pe
        inputs = question(np.array([[0.0, 0.0, -1.0]]), np.zeros((1, 4)), hits, 1, max_photons)
        return float(session.run(["llh"], inputs)[0][0])

    one, five, twenty = llh(1.0, 20), llh(5.0, 20), llh(20.0, 20)
    assert llh(5.2, 1) == pytest.approx(one, rel=1e-6)
    assert llh(0.4, 20) == pytest.approx(one, rel=1e-6)
    assert llh(5.2, 20) == pytest.approx(five, rel=1e-6)
    assert llh(90.0, 5) == pytest.approx(five, rel=1e-6)
    assert llh(100.0, 20) == pytest.approx(twenty, rel=1e-6)
    assert len({round(value, 3) for value in (one, five, twenty)}) == 3
