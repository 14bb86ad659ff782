import asyncio
from collections.abc import AsyncIterator

import pytest

from icestream.errors import ModelOverloaded, ModelUnavailable
from services.router import intake as intake_module
from services.router.intake import Intake, postponement_s
from tests.support.eventually import eventually

GONE = ModelUnavailable("the model is gone")


class Probe:
    """A model that is away for the first `n_failures` questions."""

    def __init__(self, n_failures: int = 0) -> None:
        self.n_failures = n_failures
        self.n_calls = 0
        self.failure: Exception = GONE

    async def __call__(self) -> None:
        self.n_calls += 1
        if self.n_calls <= self.n_failures:
            raise self.failure


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "_FIRST_PROBE_S", 0.005)
    monkeypatch.setattr(intake_module, "_SLOWEST_PROBE_S", 0.01)


@pytest.fixture
def probe() -> Probe:
    return Probe()


@pytest.fixture
def changes() -> list[str | None]:
    return []


@pytest.fixture
async def intake(probe: Probe, changes: list[str | None]) -> AsyncIterator[Intake]:
    intake = Intake(probe, changes.append)
    yield intake
    await intake.stop()


async def test_it_starts_open_and_asks_nothing(intake: Intake, probe: Probe) -> None:
    assert intake.is_open
    await asyncio.wait_for(intake.opened(), 0.1)
    assert probe.n_calls == 0


async def test_closing_twice_is_closing_once(intake: Intake, changes: list[str | None], probe: Probe) -> None:
    intake.close(GONE)
    intake.close(ModelOverloaded("full"))
    assert not intake.is_open
    assert changes == ["the model is gone"]
    await asyncio.wait_for(intake.opened(), 1)
    assert probe.n_calls == 1


async def test_it_reopens_once_the_model_answers(
    intake: Intake, changes: list[str | None], probe: Probe
) -> None:
    probe.n_failures = 3
    intake.close(GONE)
    await asyncio.wait_for(intake.opened(), 1)
    assert intake.is_open
    assert probe.n_calls == 4
    assert changes == ["the model is gone", None]


async def test_it_closes_again_after_it_reopened(intake: Intake, changes: list[str | None]) -> None:
    for _ in range(2):
        intake.close(GONE)
        await asyncio.wait_for(intake.opened(), 1)
    assert changes == ["the model is gone", None] * 2


async def test_an_overloaded_model_says_when_it_is_asked_again(intake: Intake, probe: Probe) -> None:
    intake.close(ModelOverloaded("full", retry_after_s=60.0))
    await asyncio.sleep(0.05)
    assert probe.n_calls == 0


async def test_stop_ends_the_probing(intake: Intake, probe: Probe) -> None:
    probe.n_failures = 1_000_000
    intake.close(GONE)
    await eventually(lambda: probe.n_calls > 1)
    await intake.stop()
    n_calls = probe.n_calls
    await asyncio.sleep(0.05)
    assert probe.n_calls == n_calls
    assert not intake.is_open


async def test_stopping_what_never_closed_is_harmless(intake: Intake) -> None:
    await intake.stop()


async def test_a_mistake_of_ours_in_the_probe_does_not_close_the_intake_for_ever(
    intake: Intake, probe: Probe
) -> None:
    probe.n_failures, probe.failure = 1, ValueError("not expected")
    intake.close(GONE)
    await asyncio.wait_for(intake.opened(), 0.3)


@pytest.mark.parametrize(
    ("n_delivered", "longest_s"), [(1, 0.25), (2, 0.5), (5, 4.0), (8, 30.0), (20, 30.0), (5_000, 30.0)]
)
def test_postponements_double_up_to_half_a_minute(n_delivered: int, longest_s: float) -> None:
    delays_s = [postponement_s(n_delivered) for _ in range(200)]
    assert longest_s / 2 <= min(delays_s) < 0.6 * longest_s
    assert 0.9 * longest_s < max(delays_s) <= longest_s
