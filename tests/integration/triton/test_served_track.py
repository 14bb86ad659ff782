"""The track fit that the repository ships, served by the real Triton: what the scan's workers ask."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from export.served import open_session
from icestream.errors import ModelFailed
from icestream.physics.detector import Detector, icecube86
from icestream.physics.events import Event
from icestream.physics.healpix import centres
from icestream.ports import Answer, CallOptions
from icestream.runtime.canary import Verdict, canary, read_known_answer
from icestream.runtime.onnx_models import OnnxModels
from icestream.runtime.triton import TritonModel
from icestream.scans.pixels import PixelBatch, PixelFits
from icestream.scans.recos.reco import PreparedEvent
from icestream.scans.recos.track import MIN_HITS, MODEL, RECOS
from tests.support.shipped_model import REPOSITORY, simulated_events
from tests.support.triton_server import RunningTriton, running_triton

VERSION = REPOSITORY / MODEL / "1"
OUTPUTS = ("llh", "timing_llh", "position", "time")
TOLERANCE = 1e-5
"""Relative: the same library computes on the same machine."""
Question = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTriton]:
    folder = tmp_path_factory.mktemp("track")
    repository = folder / "models"
    repository.mkdir()
    (repository / MODEL).symlink_to(REPOSITORY / MODEL)
    with running_triton(repository, folder / "work") as running:
        yield running


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    return open_session(VERSION / "model.onnx")


def questions() -> list[Question]:
    """Of many sizes."""
    rng = np.random.default_rng(1)
    return [
        {
            "direction": centres(4, rng.permutation(192)[:n_pixels]).astype(np.float32),
            "seeds": rng.normal(size=(n_pixels, n_seeds, 4), scale=50).astype(np.float32),
            "hits": random_hits(rng, n_hits),
            "dark": random_dark(rng, 30 * n_seeds),
            "level": np.array([level], np.int32),
            "max_photons": np.array([(1, 1, 20)[level]], np.float32),
        }
        for n_pixels, n_seeds, n_hits in ((1, 1, 5), (192, 2, 40), (17, 3, 200))
        for level in range(3)
    ]


def random_hits(rng: np.random.Generator, n_hits: int) -> NDArray[np.float32]:
    places = rng.uniform(-300, 300, (n_hits, 3))
    times = -places[:, 2] / 0.3 + rng.exponential(200, n_hits)
    return np.column_stack((places, times, rng.uniform(0.5, 9, n_hits))).astype(np.float32)


def random_dark(rng: np.random.Generator, n_modules: int) -> NDArray[np.float32]:
    places = rng.uniform(-500, 500, (n_modules, 3))
    return np.column_stack((places, np.ones(n_modules), np.full(n_modules, 4.0))).astype(np.float32)


def assert_same(answer: Answer, expected: Sequence[NDArray[np.float32]]) -> None:
    assert (answer.model.name, answer.model.version) == (MODEL, VERSION.name)
    assert set(answer.tensors) == set(OUTPUTS)
    for name, values in zip(OUTPUTS, expected, strict=True):
        actual = answer.tensors[name]
        assert actual.shape == values.shape
        assert actual.dtype == np.float32
        np.testing.assert_allclose(actual, values, rtol=0, atol=TOLERANCE * np.abs(values).max())


async def test_its_canary_is_good(server: RunningTriton) -> None:
    async with TritonModel(server.target) as model:
        known = read_known_answer(VERSION / "canary.json")
        assert (await canary(model, known, n_probes=2)).verdict is Verdict.GOOD


async def test_triton_fits_as_onnxruntime_does(
    server: RunningTriton, session: onnxruntime.InferenceSession
) -> None:
    async with TritonModel(server.target) as model:
        for question in questions():
            answer = await model.infer_tensors(MODEL, question, CallOptions())
            assert_same(answer, session.run(list(OUTPUTS), question))


async def test_requests_side_by_side_get_their_own_answers(
    server: RunningTriton, session: onnxruntime.InferenceSession
) -> None:
    asked = questions() * 2
    async with TritonModel(server.target) as model:
        answers = await asyncio.gather(
            *(model.infer_tensors(MODEL, question, CallOptions(timeout_s=60)) for question in asked)
        )
    for question, answer in zip(asked, answers, strict=True):
        assert_same(answer, session.run(list(OUTPUTS), question))


@pytest.mark.parametrize(
    ("name", "damaged"),
    [
        ("level", np.array([1], np.int64)),
        ("hits", np.zeros((5, 4), np.float32)),
        ("seeds", np.zeros((1, 4), np.float32)),
        ("direction", np.zeros((1, 3), np.float64)),
    ],
)
async def test_a_question_of_another_form_is_refused(
    server: RunningTriton, name: str, damaged: NDArray[Any]
) -> None:
    question = questions()[0]
    async with TritonModel(server.target) as model:
        with pytest.raises(ModelFailed):
            await model.infer_tensors(MODEL, question | {name: damaged}, CallOptions())
        # And it answers the next one.
        await model.infer_tensors(MODEL, question, CallOptions())


async def test_a_reco_finds_the_same_with_a_server_and_without(server: RunningTriton) -> None:
    detector = icecube86()
    mpe = next(reco for reco in RECOS if reco.name == "track_mpe")
    prepared = mpe.prepare(bright_event(detector), detector)
    async with TritonModel(server.target) as served, OnnxModels(REPOSITORY, n_threads=1) as local:
        for nside in (8, 64, 512):
            batch = a_batch(nside, prepared)
            fits, expected = [
                await mpe.fit(batch, prepared, model, CallOptions(timeout_s=60)) for model in (served, local)
            ]
            assert_same_fits(fits, expected)


def bright_event(detector: Detector) -> Event:
    """The first of some that a track can be fitted to well."""
    core = [len(np.unique(event.pulses.sensor_id[event.pulses.is_hlc])) for event in simulated_events(20)]
    return simulated_events(20)[int(np.argmax(np.array(core) > 4 * MIN_HITS))]


def a_batch(nside: int, prepared: PreparedEvent) -> PixelBatch:
    pixel = np.arange(48)
    seed = np.array([*prepared.seed.position_m, prepared.seed.time_ns])
    return PixelBatch(
        0, nside, pixel, np.zeros(48, np.int64), centres(nside, pixel), np.tile(seed, (48, 1, 1))
    )


def assert_same_fits(fits: PixelFits, expected: PixelFits) -> None:
    np.testing.assert_allclose(fits.llh, expected.llh, rtol=TOLERANCE)
    np.testing.assert_allclose(fits.position_m, expected.position_m, rtol=0, atol=0.01)
    np.testing.assert_allclose(fits.time_ns, expected.time_ns, rtol=0, atol=0.05)
    assert np.isfinite(fits.llh).all()
