"""Which of the scans that wait begins next."""

from collections.abc import Iterable

from icestream.runtime.jetstream.scan_topology import Lane
from services.scanner.coordinator.record import ScanRecord


def scans_to_begin(active: Iterable[ScanRecord], *, max_running: int) -> list[ScanRecord]:
    """Every alert, and of the others the highest priority, then the oldest, while there is room.

    Args:
        active: All scans that have not ended.
        max_running: How many of the catalogue may run.
    """
    active = list(active)
    waiting = [record for record in active if not record.is_begun and not record.state.is_ended]
    alerts = [record for record in waiting if record.lane is Lane.ALERT]
    n_running = sum(
        record.is_begun and record.lane is Lane.CATALOGUE and not record.state.is_ended for record in active
    )
    others = sorted((record for record in waiting if record.lane is Lane.CATALOGUE), key=_turn)
    return alerts + others[: max(max_running - n_running, 0)]


def _turn(record: ScanRecord) -> tuple[int, int, str]:
    request = record.request
    return -request.options.priority, request.created_unix_ns, request.scan_id
