"""How far a worker can trust itself, by what came of its last batches."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from icestream.errors import IceStreamError
from services.scanner.worker.faults import is_own_fault, postponement_s, reason_of

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Pause:
    """A time in which no batch is begun."""

    until_s: float
    """On the clock of `Standing`."""
    is_quarantine: bool
    problem: str


class Standing:
    """Says when to pause: for a dependency that is away, or because this worker seems to be sick.

    A worker whose disk, libraries or GPU are broken fails fast, and would eat the whole queue.
    """

    def __init__(
        self, *, quarantine_after: int, quarantine_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin in good standing.

        Args:
            quarantine_after: So many different batches that fail in a row mean that the worker is sick.
            quarantine_s: For how long it is.
            clock: In s.
        """
        self._quarantine_after = quarantine_after
        self._quarantine_s = quarantine_s
        self._clock = clock
        self._failed_batches: set[str] = set()
        self._n_needed = quarantine_after
        self._n_postponed = 0
        self._pause: Pause | None = None

    @property
    def pause(self) -> Pause | None:
        """The pause that lasts right now."""
        # Asked from the thread of the health pages, too, so that nothing changes here.
        pause = self._pause
        return pause if pause is not None and self._clock() < pause.until_s else None

    def problem(self) -> str | None:
        """Why nothing is begun right now; None in good standing."""
        return None if (pause := self.pause) is None else pause.problem

    def remaining_s(self) -> float:
        """How long the pause still lasts."""
        return 0.0 if (pause := self.pause) is None else max(pause.until_s - self._clock(), 0.0)

    def succeeded(self) -> None:
        """A batch was fitted and handed in: all is well."""
        self._failed_batches.clear()
        self._n_needed = self._quarantine_after
        self._n_postponed = 0

    def failed(self, batch: str, error: Exception) -> None:
        """A batch failed.

        Args:
            batch: The name of the whole batch: one bad fit makes each part that holds it fail, which says
                nothing about the worker.
            error: Why.
        """
        if is_own_fault(error):
            self._failed_batches.add(batch)
            if len(self._failed_batches) >= self._n_needed:
                self._quarantine(error)
        elif isinstance(error, IceStreamError) and error.retryable:
            self._wait_for_dependency(error)

    def _quarantine(self, error: Exception) -> None:
        n_failed = len(self._failed_batches)
        problem = f"in quarantine after {n_failed} failed batches; the last: {reason_of(error)}: {error}"
        _log.warning("worker quarantined", quarantine_s=self._quarantine_s, problem=problem)
        self._pause = Pause(self._clock() + self._quarantine_s, is_quarantine=True, problem=problem)
        self._failed_batches.clear()
        # On probation: what fails next sends it back, what succeeds restores it.
        self._n_needed = 1

    def _wait_for_dependency(self, error: IceStreamError) -> None:
        if self.pause is not None:
            # Batches that were in work together fail together: that is one absence, not several.
            return
        self._n_postponed += 1
        until_s = self._clock() + postponement_s(self._n_postponed)
        self._pause = Pause(until_s, is_quarantine=False, problem=f"{error.reason}: {error}")
