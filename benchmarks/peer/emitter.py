"""The emitter: events as JSON onto the list."""

import time
from collections.abc import Sequence

import redis

from benchmarks.load import Published, Schedule, repeated
from benchmarks.peer.wire import encode_events
from icestream.physics.events import Event


def emit(
    port: int,
    key: str,
    sample: Sequence[Event],
    run_id: int,
    n_events: int,
    *,
    batch: int,
    rate: float | None = None,
) -> Published:
    """Push events, `batch` to an item, each batch as soon as its last event is due.

    Args:
        port: Redis'.
        key: The list.
        sample: What is repeated under new ids.
        run_id: Of the new ids; also the seed of the times.
        n_events: How many.
        batch: Events in one item.
        rate: Events/s, as a Poisson process; None pushes as fast as it goes.
    """
    started_cpu_s = time.process_time()
    schedule = Schedule(n_events, rate, seed=run_id)
    waiting = list[Event]()
    with redis.Redis(port=port) as client:
        for number, event in enumerate(repeated(sample, run_id, n_events)):
            waiting.append(event)
            if len(waiting) == batch or number == n_events - 1:
                time.sleep(schedule.early_s(number))
                client.rpush(key, encode_events(waiting))
                waiting.clear()
    return Published(schedule.due_unix_ns, time.process_time() - started_cpu_s)
