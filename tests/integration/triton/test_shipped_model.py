"""The model that the repository ships, served by the real Triton: what it says of simulated events."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from export.served import open_session
from icestream.physics.detector import icecube86
from icestream.physics.events import Event
from icestream.physics.features import pad_batch, pulse_features
from icestream.physics.simulation import simulate
from icestream.ports import CallOptions, ModelInput
from icestream.runtime.canary import Verdict, canary, known_answers
from icestream.runtime.local_stack import CHECKOUT
from icestream.runtime.triton import TritonModel
from tests.support.triton_server import RunningTriton, running_triton

N_EVENTS = 200
BATCH = 8
TOLERANCE = 1e-4
REPOSITORY = CHECKOUT / "model_repository"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTriton]:
    with running_triton(REPOSITORY, tmp_path_factory.mktemp("shipped")) as running:
        yield running


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return list(simulate(icecube86(), seed=701, n_events=N_EVENTS))


def batches(events: list[Event]) -> Iterator[ModelInput]:
    """Batches of events of similar length, as the router sends them."""
    features = {event.id: pulse_features(event.pulses, icecube86()) for event in events}
    ordered = sorted(events, key=lambda event: len(features[event.id]))
    for first in range(0, len(ordered), BATCH):
        batch = ordered[first : first + BATCH]
        rows = [features[event.id] for event in batch]
        yield ModelInput(*pad_batch(rows, [len(event.pulses) for event in batch], max(map(len, rows))))


async def test_its_canary_is_good(server: RunningTriton) -> None:
    async with TritonModel(server.target) as model:
        for known in known_answers(REPOSITORY):
            assert (await canary(model, known, n_probes=2)).verdict is Verdict.GOOD


async def test_triton_answers_as_onnxruntime_does(server: RunningTriton, events: list[Event]) -> None:
    newest = max(REPOSITORY.glob("direction/*/model.onnx"), key=lambda path: int(path.parent.name))
    session = open_session(newest)
    async with TritonModel(server.target) as model:
        for batch in batches(events):
            served = await model.infer("direction", batch, CallOptions())
            inputs = {"pulses": batch.pulses, "lengths": batch.lengths}
            direction, kappa, radii = session.run(["direction", "kappa", "error_radii"], inputs)
            assert served.model.version == newest.parent.name
            np.testing.assert_allclose(served.direction, direction, atol=TOLERANCE)
            np.testing.assert_allclose(served.kappa, kappa, rtol=TOLERANCE)
            np.testing.assert_allclose(served.error_radii_rad, radii, atol=TOLERANCE)


async def test_its_answers_are_directions_with_ordered_radii(
    server: RunningTriton, events: list[Event]
) -> None:
    async with TritonModel(server.target) as model:
        for batch in batches(events):
            served = await model.infer("direction", batch, CallOptions())
            np.testing.assert_allclose(np.linalg.norm(served.direction, axis=1), 1.0, atol=1e-5)
            assert (served.error_radii_rad[:, 0] > 0).all()
            assert (served.error_radii_rad[:, 0] <= served.error_radii_rad[:, 1]).all()
            assert (served.error_radii_rad[:, 1] <= np.pi).all()


def test_a_version_has_a_card_and_a_canary_beside_it() -> None:
    for model in REPOSITORY.glob("*/*/model.onnx"):
        names = {path.name for path in Path(model.parent).iterdir()}
        assert {"model.onnx", "model_card.json", "canary.json"} <= names
