"""The model that the repository ships, served by the real Triton: what it says of simulated events."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from export.served import open_session
from icestream.ports import CallOptions
from icestream.runtime.canary import Verdict, canary, known_answers
from icestream.runtime.triton import TritonModel
from tests.support.shipped_model import (
    MODELS,
    REPOSITORY,
    Answers,
    Question,
    ask,
    assert_same,
    in_order,
    newest_version,
    simulated_events,
    version_folders,
)
from tests.support.triton_server import RunningTriton, running_triton

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTriton]:
    with running_triton(REPOSITORY, tmp_path_factory.mktemp("shipped")) as running:
        yield running


@pytest.fixture(scope="module")
def question() -> Question:
    return Question.about(simulated_events(1000))


@pytest.fixture(params=MODELS, ids=lambda model: model.name)
def shipped(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.param
    return folder


async def ask_triton(server: RunningTriton, shipped: Path, question: Question) -> Answers:
    """Let Triton answer, one row per event; the newest version must do so."""
    batches = question.batches()
    async with TritonModel(server.target) as model:
        outputs = [await model.infer(shipped.name, batch.input, CallOptions()) for batch in batches]
    assert {output.model.version for output in outputs} == {newest_version(shipped).name}
    return in_order(batches, [(output.direction, output.kappa, output.error_radii_rad) for output in outputs])


async def test_its_canary_is_good(server: RunningTriton) -> None:
    async with TritonModel(server.target) as model:
        for known in known_answers(REPOSITORY):
            assert (await canary(model, known, n_probes=2)).verdict is Verdict.GOOD


async def test_triton_answers_as_onnxruntime_does(
    server: RunningTriton, shipped: Path, question: Question
) -> None:
    session = open_session(newest_version(shipped) / "model.onnx")
    assert_same(await ask_triton(server, shipped, question), ask(session, question), TOLERANCE)


async def test_its_answers_are_directions_with_ordered_radii(
    server: RunningTriton, shipped: Path, question: Question
) -> None:
    answers = await ask_triton(server, shipped, question)
    np.testing.assert_allclose(np.linalg.norm(answers.direction, axis=1), 1.0, atol=1e-5)
    assert (answers.kappa > 0).all()
    assert (answers.radii_rad[:, 0] > 0).all()
    assert (answers.radii_rad[:, 0] <= answers.radii_rad[:, 1]).all()
    assert (answers.radii_rad[:, 1] <= np.pi).all()


def test_a_version_has_a_card_and_a_canary_beside_it(shipped: Path) -> None:
    for folder in version_folders(shipped):
        names = {path.name for path in folder.iterdir()}
        assert {"model.onnx", "model_card.json", "canary.json"} <= names
