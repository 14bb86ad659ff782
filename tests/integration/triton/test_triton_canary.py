"""The canary finds what Triton's own health calls do not."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from icestream.errors import Misconfigured
from icestream.runtime import tritonserver
from icestream.runtime.canary import KnownAnswer, Verdict, canary, known_answers, read_known_answer
from icestream.runtime.triton import TritonModel
from icestream.runtime.tritonserver import has_dead_backend
from tests.support.eventually import eventually
from tests.support.models import add_model, mean_direction_model
from tests.support.triton_server import RunningTriton, free_ports, running_triton


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[RunningTriton]:
    """A server of its own, to be broken."""
    repository = tmp_path / "models"
    add_model(repository, "direction", mean_direction_model())
    with running_triton(repository, tmp_path / "work") as server:
        yield server


@pytest.fixture
def known(triton: RunningTriton) -> KnownAnswer:
    return known_answers(triton.model_repository)[0]


async def test_a_working_model_is_good(model: TritonModel, known: KnownAnswer) -> None:
    finding = await canary(model, known, n_probes=2)
    assert finding.verdict is Verdict.GOOD, finding.detail


async def test_wrong_values_are_found(model: TritonModel, known: KnownAnswer) -> None:
    slightly_off = known.outputs["kappa"] * 1.001
    finding = await canary(model, replace(known, outputs={**known.outputs, "kappa": slightly_off}))
    assert finding.verdict is Verdict.WRONG
    assert "kappa differs by up to" in finding.detail
    assert finding.verdict.needs_restart


@pytest.mark.parametrize(
    ("exact", "verdict"),
    [
        ("np.from_dlpack(tensor) if HAS_NUMPY_2 else ", Verdict.WRONG),
        ("pb.Tensor.from_dlpack(name, Lent(contiguous)) if HAS_NUMPY_2 else ", Verdict.DEAD),
    ],
    ids=["every input element is the first", "an output without bytes"],
)
async def test_the_silent_corruption_by_a_newer_numpy_is_found(
    exact: str, verdict: Verdict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tritonserver.BACKEND.read_text()
    assert exact in source
    unaware = tmp_path / "model.py"
    unaware.write_text(source.replace(exact, ""))
    monkeypatch.setattr(tritonserver, "BACKEND", unaware)
    add_model(tmp_path / "models", "direction", mean_direction_model())
    with running_triton(tmp_path / "models", tmp_path / "work") as server:
        async with TritonModel(server.target) as model:
            finding = await canary(model, known_answers(server.model_repository)[0])
    assert finding.verdict is verdict
    assert finding.verdict.needs_restart


async def test_an_output_of_another_shape_is_found(model: TritonModel, known: KnownAnswer) -> None:
    finding = await canary(model, replace(known, outputs={"direction": known.outputs["kappa"]}))
    assert finding.verdict is Verdict.WRONG


async def test_a_version_that_is_not_loaded_is_found_and_needs_no_restart(
    model: TritonModel, known: KnownAnswer
) -> None:
    finding = await canary(model, replace(known, version="2"))
    assert finding.verdict is Verdict.NOT_LOADED
    assert not finding.verdict.needs_restart


async def test_no_answer_in_time_is_no_proof_of_a_fault(model: TritonModel, triton: RunningTriton) -> None:
    slow = read_known_answer(triton.model_repository / "slow/1/canary.json")
    finding = await canary(model, slow, timeout_s=0.01)
    assert finding.verdict is Verdict.BUSY
    assert not finding.verdict.needs_restart


async def test_a_dead_backend_process_is_found_while_health_says_ready(mortal: RunningTriton) -> None:
    known = known_answers(mortal.model_repository)[0]
    # One of two: half of the requests still succeed.
    assert not has_dead_backend(mortal.process.pid)
    mortal.backend_processes("direction")[0].kill()
    await eventually(lambda: has_dead_backend(mortal.process.pid))
    async with TritonModel(mortal.target) as model:
        finding = await canary(model, known, n_probes=2)
        assert await model.is_ready("direction")
        assert await model.model_names() == ["direction"]
    assert finding.verdict is Verdict.DEAD
    assert "not healthy" in finding.detail


async def test_a_server_that_is_away_is_dead(known: KnownAnswer) -> None:
    async with TritonModel(f"127.0.0.1:{free_ports().grpc}") as model:
        assert (await canary(model, known)).verdict is Verdict.DEAD


def test_the_newest_known_answer_of_each_model_is_used(tmp_path: Path) -> None:
    for version in (9, 10):
        add_model(tmp_path / "models", "direction", mean_direction_model(), version=version)
    assert [(known.model, known.version) for known in known_answers(tmp_path / "models")] == [
        ("direction", "10")
    ]


def test_a_damaged_known_answer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "canary.json").write_text('{"inputs": {}}')
    with pytest.raises(Misconfigured, match="no known answer"):
        read_known_answer(tmp_path / "canary.json")
