import asyncio
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest

from services.emitter import pacing
from services.emitter.pacing import Pace, due_times_s


class Clock:
    """Time that passes only while somebody sleeps, or is told to."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.n_sleeps = 0

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.n_sleeps += 1
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pacing, "time", SimpleNamespace(monotonic=clock.monotonic))
    monkeypatch.setattr(pacing, "asyncio", SimpleNamespace(sleep=clock.sleep))
    return clock


async def leave(pace: Pace, n_events: int) -> None:
    for _ in range(n_events):
        await pace.next()


def gaps_s(rate: float, *, n: int, seed: int | None = None) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    rng = None if seed is None else np.random.default_rng(seed)
    return np.diff([0.0, *islice(due_times_s(rate, rng), n)])


def test_a_fixed_rate_has_equal_gaps() -> None:
    np.testing.assert_allclose(gaps_s(250.0, n=1_000), 1 / 250.0)


def test_poisson_gaps_keep_the_mean_rate() -> None:
    assert gaps_s(250.0, n=20_000, seed=1).mean() == pytest.approx(1 / 250.0, rel=0.03)


def test_poisson_counts_vary_as_much_as_their_mean() -> None:
    times_s = np.cumsum(gaps_s(50.0, n=50_000, seed=1))
    counts = np.bincount(times_s.astype(int))[:-1]
    assert counts.mean() == pytest.approx(50, rel=0.03)
    assert counts.var() == pytest.approx(50, rel=0.2)


def test_the_same_seed_gives_the_same_pace() -> None:
    np.testing.assert_array_equal(gaps_s(50.0, n=100, seed=3), gaps_s(50.0, n=100, seed=3))


def test_without_a_rate_everything_is_due_at_once() -> None:
    assert list(islice(due_times_s(None, np.random.default_rng(1)), 3)) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("rate", [1.0, 50.0, 20_000.0])
async def test_the_mean_rate_is_kept(clock: Clock, rate: float) -> None:
    started_s = clock.now_s
    await leave(Pace(rate), 1_000)
    assert clock.now_s - started_s == pytest.approx(1_000 / rate, abs=0.002)


async def test_at_high_rates_events_leave_in_bursts(clock: Clock) -> None:
    await leave(Pace(20_000.0), 1_000)
    assert clock.n_sleeps < 100


async def test_after_a_delay_it_catches_up(clock: Clock) -> None:
    pace = Pace(10.0)
    started_s = clock.now_s
    await leave(pace, 10)
    clock.now_s += 5.0
    await leave(pace, 50)
    assert clock.now_s - started_s == pytest.approx(6.0)
    await leave(pace, 10)
    assert clock.now_s - started_s == pytest.approx(7.0)


async def test_time_before_the_first_event_does_not_count(clock: Clock) -> None:
    pace = Pace(10.0)
    clock.now_s += 100.0
    started_s = clock.now_s
    await leave(pace, 10)
    assert clock.now_s - started_s == pytest.approx(1.0)


async def test_without_a_rate_nobody_waits(clock: Clock) -> None:
    await leave(Pace(None), 1_000)
    assert clock.n_sleeps == 0


async def test_it_really_waits() -> None:
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    await leave(Pace(100.0), 5)
    assert 0.045 <= loop.time() - started_s < 1.0
