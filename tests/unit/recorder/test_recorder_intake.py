import asyncio
from collections.abc import AsyncIterator

import pytest

from icestream.errors import StoreUnavailable
from services.recorder import intake as intake_module
from services.recorder.intake import Intake, postponement_s
from tests.support.eventually import eventually

GONE = StoreUnavailable("the database is gone")


class Probe:
    """A database that is away for the first `n_failures` questions."""

    def __init__(self) -> None:
        self.n_failures = 0
        self.n_calls = 0
        self.failure: Exception = StoreUnavailable("still gone")

    async def __call__(self) -> None:
        self.n_calls += 1
        if self.n_calls <= self.n_failures:
            raise self.failure


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "_FIRST_PROBE_S", 0.005)
    monkeypatch.setattr(intake_module, "_SLOWEST_PROBE_S", 0.02)


@pytest.fixture
def probe() -> Probe:
    return Probe()


@pytest.fixture
async def intake(probe: Probe) -> AsyncIterator[Intake]:
    intake = Intake(probe)
    yield intake
    await intake.stop()


async def test_it_starts_open_and_asks_nothing(intake: Intake, probe: Probe) -> None:
    assert intake.is_open
    assert intake.problem() is None
    await asyncio.wait_for(intake.opened(), 0.1)
    assert probe.n_calls == 0


async def test_it_says_what_is_wrong_and_reopens_once_the_database_answers(
    intake: Intake, probe: Probe
) -> None:
    probe.n_failures = 3
    intake.close(GONE)
    intake.close(StoreUnavailable("another one"))
    assert not intake.is_open
    assert intake.problem() == "the database is gone"
    await eventually(lambda: intake.problem() == "still gone", poll_s=0.001)
    intake.confirm()
    assert intake.problem() == "still gone"
    await asyncio.wait_for(intake.opened(), 5)
    assert probe.n_calls == 4


async def test_a_database_is_trusted_again_once_rows_are_written(intake: Intake) -> None:
    for _ in range(2):
        intake.close(GONE)
        await asyncio.wait_for(intake.opened(), 5)
        assert intake.problem() == "the database is gone"
    intake.confirm()
    assert intake.problem() is None


async def test_a_database_that_nobody_needs_is_trusted_after_a_while(
    intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "_PROBATION_S", 0.01)
    intake.close(GONE)
    await eventually(lambda: intake.problem() is None)
    assert intake.is_open


async def test_a_mistake_of_ours_does_not_keep_it_closed(intake: Intake, probe: Probe) -> None:
    probe.n_failures, probe.failure = 2, RuntimeError("a mistake")
    intake.close(GONE)
    await asyncio.wait_for(intake.opened(), 5)
    assert probe.n_calls == 3


async def test_a_database_that_takes_probes_alone_is_asked_ever_more_slowly(
    intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(intake_module, "_PROBATION_S", 0.0)

    async def sleep(pause_s: float) -> None:
        pauses.append(pause_s)

    monkeypatch.setattr("services.recorder.intake.asyncio.sleep", sleep)
    monkeypatch.setattr("services.recorder.intake.random.uniform", lambda *_: 1.0)
    for _ in range(3):
        intake.close(GONE)
        await intake.opened()
    intake.confirm()
    intake.close(GONE)
    await intake.opened()
    assert [pause_s for pause_s in pauses if pause_s] == [0.005, 0.01, 0.02, 0.005]


@pytest.mark.parametrize(("n_delivered", "longest_s"), [(1, 0.25), (2, 0.5), (20, 30.0)])
def test_messages_come_back_later_each_time(n_delivered: int, longest_s: float) -> None:
    for _ in range(20):
        assert longest_s / 2 <= postponement_s(n_delivered) <= longest_s
