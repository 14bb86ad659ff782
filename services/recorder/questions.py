"""Answers from the tables."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy import Connection, Engine, Select, func, select, tuple_

from icestream.errors import TooManyRequests, UnknownReconstruction
from services.recorder.database import DriverConnection, driver_of, interrupt, translated_failures
from services.recorder.reconstruction_rows import Row
from services.recorder.requests import Page, PlaceInOrder
from services.recorder.schema import DEAD_LETTERS, RECONSTRUCTIONS, SCANS
from services.recorder.selection import Selection

_TABLE = RECONSTRUCTIONS.c
_ORDER = (
    _TABLE.start_unix_ns,
    _TABLE.detector,
    _TABLE.run_id,
    _TABLE.event_id,
    _TABLE.sub_event,
    _TABLE.model,
    _TABLE.model_version,
)
_RATE_WINDOW_NS = 60 * 10**9
_END_S = 2.0
_INTERRUPT_EVERY_S = 0.02

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Quality:
    """How one version of a model did with one kind of event."""

    model: str
    model_version: str
    kind: int
    n_reconstructions: int
    n_with_truth: int
    median_opening_angle_rad: float | None


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts of everything."""

    recorded_per_s: float
    qualities: list[Quality]
    dead_letters: list[tuple[str, str, int]]
    """Service, reason and how many."""
    scans: list[tuple[str, int, int]]
    """Reco, state and how many."""


class Questions:
    """The tables, for reading; an async context manager with threads of its own."""

    def __init__(self, engine: Engine, *, n_threads: int, n_calls: int) -> None:
        """Prepare.

        Args:
            engine: For reading.
            n_threads: Questions that are at the database at once.
            n_calls: Questions that are there or wait for it; one more is refused.
        """
        self._engine = engine
        self._threads = ThreadPoolExecutor(n_threads, thread_name_prefix="questions")
        self._n_calls = n_calls
        self._n_in_work = 0
        self._drivers_in_work = set[DriverConnection]()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._interrupt_all)
        self._engine.dispose()

    async def get(self, selection: Selection, event_id: int, sub_event: int) -> list[Row]:
        """What is recorded of one event, the last recorded first; at least one row.

        Raises:
            UnknownReconstruction: Nothing is.
            StoreUnavailable: The database does not answer.
            TooManyRequests: Too many ask.
        """
        query = (
            select(RECONSTRUCTIONS)
            .where(*selection.conditions(), _TABLE.event_id == event_id, _TABLE.sub_event == sub_event)
            .order_by(_TABLE.recorded_unix_ns.desc(), *_ORDER)
        )
        rows = await self._answer(lambda connection: _rows(connection, query))
        if not rows:
            raise UnknownReconstruction(f"{selection.detector}/{selection.run_id}.{event_id}.{sub_event}")
        return rows

    async def page(self, selection: Selection, page: Page) -> tuple[list[Row], PlaceInOrder | None]:
        """The rows of a page, the latest first, and where the next one begins; None where there is none.

        New rows do not shift the pages that follow, which begin behind a row and not after a number of them.

        Raises:
            DeadlineExceeded: The database takes too long.
            StoreUnavailable: The database does not answer.
            TooManyRequests: Too many ask.
        """
        query = select(RECONSTRUCTIONS).where(*selection.conditions())
        if page.after is not None:
            query = query.where(tuple_(*_ORDER) < page.after)
        query = query.order_by(*(column.desc() for column in _ORDER)).limit(page.size + 1)
        rows = await self._answer(lambda connection: _rows(connection, query))
        if len(rows) <= page.size:
            return rows, None
        last = rows[page.size - 1]
        place: Any = tuple(last[column.name] for column in _ORDER)
        return rows[: page.size], place

    async def statistics(self, selection: Selection) -> Statistics:
        """Counts, and medians of the opening angle, as of one moment.

        Raises:
            DeadlineExceeded: The database takes too long.
            StoreUnavailable: The database does not answer.
            TooManyRequests: Too many ask.
        """
        return await self._answer(lambda connection: _statistics(connection, selection, time.time_ns()))

    async def _answer(self, question: Callable[[Connection], _T]) -> _T:
        if self._n_in_work >= self._n_calls:
            raise TooManyRequests(f"{self._n_calls} questions are in work; ask fewer at once")
        self._n_in_work += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, self._ask, question)
        finally:
            self._n_in_work -= 1

    def _ask(self, question: Callable[[Connection], _T]) -> _T:
        with translated_failures(), self._engine.begin() as connection:
            driver = driver_of(connection)
            self._drivers_in_work.add(driver)
            try:
                return question(connection)
            finally:
                self._drivers_in_work.remove(driver)

    def _interrupt_all(self) -> None:
        """End what nobody waits for any more: Python would, before it ends the process."""
        give_up_at_s = time.monotonic() + _END_S
        # Again and again, because one may have been between two statements.
        while self._drivers_in_work and time.monotonic() < give_up_at_s:
            for driver in list(self._drivers_in_work):
                interrupt(driver)
            time.sleep(_INTERRUPT_EVERY_S)


def _rows(connection: Connection, query: Select[Any]) -> list[Row]:
    return [row._asdict() for row in connection.execute(query)]


def _statistics(connection: Connection, selection: Selection, now_unix_ns: int) -> Statistics:
    conditions = selection.conditions()
    recent = select(func.count()).where(*conditions, _TABLE.recorded_unix_ns > now_unix_ns - _RATE_WINDOW_NS)
    return Statistics(
        recorded_per_s=connection.execute(recent).scalar_one() / (_RATE_WINDOW_NS / 1e9),
        qualities=_qualities(connection, selection),
        dead_letters=_counts(connection, select(DEAD_LETTERS.c.service, DEAD_LETTERS.c.reason)),
        scans=_counts(connection, select(SCANS.c.reco, SCANS.c.state)),
    )


def _qualities(connection: Connection, selection: Selection) -> list[Quality]:
    group = (_TABLE.model, _TABLE.model_version, _TABLE.kind)
    counts = (
        select(*group, func.count(), func.count(_TABLE.opening_angle_rad))
        .where(*selection.conditions())
        .group_by(*group)
        .order_by(*group)
    )
    medians = {tuple(row[:3]): row[3] for row in connection.execute(_medians(selection))}
    found: list[Any] = [(*row, medians.get(tuple(row[:3]))) for row in connection.execute(counts)]
    return [Quality(*row) for row in found]


def _medians(selection: Selection) -> Select[Any]:
    """The median opening angle of each model, version and kind; SQLite has no function for it."""
    group = (_TABLE.model, _TABLE.model_version, _TABLE.kind)
    ranked = (
        select(
            *group,
            _TABLE.opening_angle_rad,
            func.row_number().over(partition_by=group, order_by=_TABLE.opening_angle_rad).label("rank"),
            func.count().over(partition_by=group).label("n"),
        )
        .where(*selection.conditions(), _TABLE.opening_angle_rad.is_not(None))
        .subquery()
    )
    columns = (ranked.c.model, ranked.c.model_version, ranked.c.kind)
    # The middle one, or the mean of both.
    is_middle = ranked.c.rank.in_(((ranked.c.n + 1) // 2, ranked.c.n // 2 + 1))
    return select(*columns, func.avg(ranked.c.opening_angle_rad)).where(is_middle).group_by(*columns)


def _counts(connection: Connection, query: Select[Any]) -> list[Any]:
    """How often each combination of columns occurs, the most frequent first."""
    columns: Sequence[Any] = list(query.selected_columns)
    counted = query.add_columns(func.count()).group_by(*columns).order_by(func.count().desc(), *columns)
    return [tuple(row) for row in connection.execute(counted)]
