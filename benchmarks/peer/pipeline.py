"""Runs the peer and measures it."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import redis

from benchmarks.load import Accounted, Drained, Latencies, latencies
from benchmarks.peer import MODEL_VARIABLE, PREDICTIONS, QUEUE
from benchmarks.peer.emitter import emit
from benchmarks.processes import cpu_s, difference, end, running, start, wait_until
from icestream.errors import Misconfigured
from icestream.physics.events import Event, EventId
from icestream.runtime.endpoints import LOOPBACK, free_ports
from icestream.runtime.local_stack import CHECKOUT, TOOL_CACHE

_START_TIMEOUT_S = 180.0
_PATIENCE_S = 600.0
_STAGED = "staged-events"
"""Where a queue is filled; renaming it opens it to the consumers."""
_SETTLED_S = 5.0
"""An empty queue and no new prediction for so long: whatever is missing now stays missing."""


class Peer:
    """A peer that runs; see `running_peer`."""

    def __init__(self, directory: Path, redis_process: subprocess.Popen[bytes], redis_port: int) -> None:
        self.redis_port = redis_port
        self.store: redis.Redis = redis.Redis(port=redis_port, decode_responses=True)
        self._directory = directory
        self._redis = redis_process
        self._url = ""
        self._gunicorn: subprocess.Popen[bytes] | None = None
        self._consumers = list[subprocess.Popen[bytes]]()

    def serve(self, gunicorn: subprocess.Popen[bytes], port: int, n_consumers: int) -> None:
        """Start consumers for a model server that answers."""
        self._gunicorn, self._url = gunicorn, f"http://{LOOPBACK}:{port}/predict"
        self._consumers = [self._start_consumer() for _ in range(n_consumers)]

    def stop_consumers(self) -> None:
        """End all consumers."""
        for consumer in self._consumers:
            end(consumer)

    def drain(
        self, emitters: Executor, sample: Sequence[Event], run_id: int, n_events: int, *, batch: int
    ) -> Drained:
        """Fill the queue, open it, and wait until every prediction is stored."""
        emitter_cpu_s, n_bytes = self._fill(emitters, sample, run_id, n_events, batch)
        cpu_before_s, started_s = self._cpu_s(), time.perf_counter()
        self.store.rename(_STAGED, QUEUE)
        self._wait_for(n_events)
        seconds = time.perf_counter() - started_s
        cpu = difference(self._cpu_s(), cpu_before_s)
        return Drained(n_events, seconds, {"emitter": emitter_cpu_s} | cpu, n_bytes / n_events)

    def latencies(
        self,
        emitters: Executor,
        sample: Sequence[Event],
        run_id: int,
        n_events: int,
        *,
        batch: int,
        rate: float,
    ) -> Latencies:
        """Push events as they come, and compare with the times of their predictions."""
        self.store.delete(PREDICTIONS)
        emitted = emitters.submit(
            emit, self.redis_port, QUEUE, list(sample), run_id, n_events, batch=batch, rate=rate
        )
        due_unix_ns = emitted.result().due_unix_ns
        self._wait_for(n_events)
        return latencies(rate, due_unix_ns, self._available_unix_ns())

    def account_for_kills(
        self,
        emitters: Executor,
        sample: Sequence[Event],
        run_id: int,
        n_events: int,
        *,
        batch: int,
        n_kills: int,
    ) -> Accounted:
        """Kill -9 one consumer after the other while a queue is worked off; each is replaced at once.

        A killed consumer's item is gone from the list, so the only question is how much is lost; a hash holds
        no duplicates, and nothing is handed out twice.
        """
        self._fill(emitters, sample, run_id, n_events, batch)
        n_items = self.store.llen(_STAGED)
        self.store.rename(_STAGED, QUEUE)
        for number in range(n_kills):
            # By what is left and not by what is stored: what is lost would be waited for in vain.
            n_left = n_items * (n_kills - number) // (n_kills + 1)
            wait_until(partial(self._is_left, n_left), "progress of the consumers", _PATIENCE_S)
            place = number % len(self._consumers)
            self._consumers[place].kill()
            self._consumers[place].wait()
            self._consumers[place] = self._start_consumer()
        self._wait_until_settled()
        return Accounted(n_events, n_kills, n_events - self.n_predictions, 0)

    @property
    def n_predictions(self) -> int:
        """Events whose prediction is stored."""
        return int(self.store.hlen(PREDICTIONS))

    def predictions(self) -> dict[EventId, dict[str, Any]]:
        """Everything that is stored."""
        stored = self.store.hgetall(PREDICTIONS)
        return {EventId.parse(str(name)): json.loads(value) for name, value in stored.items()}

    def _fill(
        self, emitters: Executor, sample: Sequence[Event], run_id: int, n_events: int, batch: int
    ) -> tuple[float, int]:
        self.store.delete(PREDICTIONS)
        emitted = emitters.submit(
            emit, self.redis_port, _STAGED, list(sample), run_id, n_events, batch=batch
        ).result()
        items = self.store.lrange(_STAGED, 0, -1)
        # JSON in ASCII: as many bytes as characters.
        return emitted.cpu_s, sum(len(item) for item in items)

    def _wait_for(self, n_events: int) -> None:
        wait_until(lambda: self._has(n_events), f"predictions of {n_events} events", _PATIENCE_S)

    def _has(self, n_events: int) -> bool:
        self._check_alive()
        return self.n_predictions >= n_events

    def _is_left(self, n_items: int) -> bool:
        self._check_alive()
        return self.store.llen(QUEUE) <= n_items

    def _check_alive(self) -> None:
        if any(consumer.poll() is not None for consumer in self._consumers):
            raise RuntimeError(
                f"a consumer of the peer ended:\n{(self._directory / 'consumer.log').read_text()}"
            )

    def _wait_until_settled(self) -> None:
        n_before, changed_s = -1, time.monotonic()
        while time.monotonic() - changed_s < _SETTLED_S:
            n_now = self.n_predictions
            if n_now != n_before or self.store.llen(QUEUE):
                n_before, changed_s = n_now, time.monotonic()
            time.sleep(0.05)

    def _available_unix_ns(self) -> dict[int, int]:
        return {name.event_id: stored["stored_unix_ns"] for name, stored in self.predictions().items()}

    def _cpu_s(self) -> dict[str, float]:
        assert self._gunicorn is not None
        return {
            "broker": cpu_s(self._redis.pid),
            "consumer": sum(cpu_s(consumer.pid) for consumer in self._consumers),
            "model server": cpu_s(self._gunicorn.pid, with_children=True),
        }

    def _start_consumer(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "benchmarks.peer.consumer", str(self.redis_port), self._url]
        return start(command, self._directory / "consumer.log", {"PYTHONPATH": str(CHECKOUT)})


@contextmanager
def running_peer(
    directory: Path, model: Path, *, n_workers: int | None = None, n_consumers: int | None = None
) -> Iterator[Peer]:
    """Run Redis, gunicorn and consumers on free ports of the loopback interface.

    Args:
        directory: Ours: logs and Redis' files.
        model: The model.onnx.
        n_workers: Of gunicorn; as many as there are cores by default.
        n_consumers: The same.

    Raises:
        Misconfigured: Redis is not installed.
    """
    program = find_redis()
    directory.mkdir(parents=True, exist_ok=True)
    redis_port, http_port = free_ports(2)
    n_cores = os.cpu_count() or 1
    with ExitStack() as stack:
        # Redis as it comes: snapshots now and then, no file of commands.
        command = [str(program), "--port", str(redis_port), "--bind", LOOPBACK, "--dir", str(directory)]
        redis_process = stack.enter_context(running(command, directory / "redis.log"))
        peer = Peer(directory, redis_process, redis_port)
        stack.callback(peer.store.close)
        wait_until(partial(_pongs, peer.store), "an answer of Redis", _START_TIMEOUT_S)
        gunicorn = stack.enter_context(
            running(
                _gunicorn_command(http_port, n_workers or n_cores),
                directory / "gunicorn.log",
                {"PYTHONPATH": str(CHECKOUT), MODEL_VARIABLE: str(model), "OMP_NUM_THREADS": "1"},
            )
        )
        _wait_for_http(gunicorn, http_port, directory / "gunicorn.log")
        peer.serve(gunicorn, http_port, n_consumers or n_cores)
        stack.callback(peer.stop_consumers)
        yield peer


def find_redis() -> Path:
    """Redis' program, on the PATH or where `make tools` puts it.

    Raises:
        Misconfigured: There is none.
    """
    found = shutil.which("redis-server") or shutil.which("redis-server", path=str(TOOL_CACHE))
    if found is None:
        raise Misconfigured(
            "redis-server is not installed; install it with: sudo apt-get install redis-server"
            " (as root, `make tools` does)"
        )
    return Path(found)


def _gunicorn_command(port: int, n_workers: int) -> list[str]:
    return [
        *(sys.executable, "-m", "gunicorn"),
        *("--bind", f"{LOOPBACK}:{port}"),
        *("--workers", str(n_workers)),
        # The first start on a machine compiles for longer than the default of 30 s lets a worker live.
        *("--timeout", "300"),
        "benchmarks.peer.app:create_app()",
    ]


def _pongs(store: redis.Redis) -> bool:
    try:
        return bool(store.ping())
    except redis.ConnectionError:
        return False


def _wait_for_http(gunicorn: subprocess.Popen[bytes], port: int, log: Path) -> None:
    def is_up() -> bool:
        if gunicorn.poll() is not None:
            raise RuntimeError(f"gunicorn ended before it answered:\n{log.read_text()}")
        try:
            with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/health", timeout=1.0):
                return True
        except (urllib.error.URLError, TimeoutError):
            return False

    wait_until(is_up, "an answer of gunicorn", _START_TIMEOUT_S)
