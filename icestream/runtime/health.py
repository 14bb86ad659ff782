"""What a process says of itself over HTTP: /metrics, /healthz and /readyz."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from threading import Thread
from typing import TYPE_CHECKING, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from icestream.errors import Misconfigured

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment


class Health:
    """Named conditions that must hold for this process to be ready."""

    def __init__(self, *conditions: str) -> None:
        self._problems: dict[str, Callable[[], str | None]] = {}
        for condition in conditions:
            self.fail(condition, "starting")

    def fail(self, condition: str, problem: str) -> None:
        """A condition does not hold, and why."""
        self.watch(condition, lambda: problem)

    def hold(self, condition: str) -> None:
        """A condition holds."""
        self.watch(condition, lambda: None)

    def watch(self, condition: str, problem: Callable[[], str | None]) -> None:
        """From now on ask for a condition's problem, None while it holds, whenever somebody asks us."""
        self._problems[condition] = problem

    @property
    def is_ready(self) -> bool:
        """Whether every condition holds."""
        return all(problem == "ok" for problem in self.report().values())

    def report(self) -> dict[str, str]:
        """Each condition with "ok" or its problem."""
        return {name: problem() or "ok" for name, problem in self._problems.items()}


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """A scrape every few seconds is not worth a line."""


@contextmanager
def serve_health(host: str, port: int, registry: CollectorRegistry, health: Health) -> Iterator[int]:
    """Serve the three pages from a thread of their own.

    Yields:
        The port, also where 0 was asked for.

    Raises:
        Misconfigured: The address cannot be used.
    """
    try:
        server = make_server(
            host, port, _application(registry, health), server_class=_Server, handler_class=_QuietHandler
        )
    except OSError as error:
        raise Misconfigured(f"cannot serve metrics on {host}:{port}: {error}; choose another port") from error
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _application(
    registry: CollectorRegistry, health: Health
) -> "Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]":
    metrics = make_wsgi_app(registry)

    def application(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics":
                return cast("Iterable[bytes]", metrics(environ, start_response))
            case "/healthz":
                # Alive is whoever answers; only a restart would help against the rest.
                return _json("200 OK", {"status": "alive"}, start_response)
            case "/readyz":
                status = "200 OK" if health.is_ready else "503 Service Unavailable"
                return _json(status, health.report(), start_response)
            case path:
                problem = {"error": f"no page {path}; there are /metrics, /healthz and /readyz"}
                return _json("404 Not Found", problem, start_response)

    return application


def _json(status: str, body: dict[str, str], start_response: "StartResponse") -> Iterable[bytes]:
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps(body).encode() + b"\n"]
