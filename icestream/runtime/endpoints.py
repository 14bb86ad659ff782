"""Where the parts of a local stack listen, and the file that tells other commands."""

import json
import socket
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from icestream.errors import Misconfigured

LOOPBACK = "127.0.0.1"
FILE_NAME = "stack.json"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Ports on loopback."""

    nats: int = 4222
    nats_monitor: int = 8222
    triton_http: int = 8000
    triton_grpc: int = 8001
    triton_metrics: int = 8002
    router_grpc: int = 50051
    router_metrics: int = 9464
    """Of the first router; the others take free ports, which their logs name."""
    scanner_grpc: int = 50052
    scanner_metrics: int = 9465
    scan_worker_metrics: int = 9466
    """Of the first scan worker; the others take free ports, which their logs name."""
    recorder_grpc: int = 50053
    recorder_metrics: int = 9467
    nats_exporter_metrics: int = 9468
    otlp: int = 4317
    jaeger: int = 16686
    jaeger_grpc: int = 16685

    @property
    def nats_url(self) -> str:
        """Where clients of NATS connect to."""
        return f"nats://{LOOPBACK}:{self.nats}"

    @property
    def otlp_url(self) -> str:
        """Where spans go."""
        return f"http://{LOOPBACK}:{self.otlp}"

    @property
    def jaeger_url(self) -> str:
        """Jaeger's page and query API."""
        return f"http://{LOOPBACK}:{self.jaeger}"

    @classmethod
    def shifted(cls, offset: int) -> Self:
        """The default ports, each plus an offset: a second stack on the same machine."""
        return cls(**{name: port + offset for name, port in asdict(cls()).items()})

    @classmethod
    def free(cls) -> Self:
        """Ports that nobody uses right now."""
        names = list(asdict(cls()))
        return cls(**dict(zip(names, free_ports(len(names)), strict=True)))

    def check_free(self) -> None:
        """Refuse to start where another program listens.

        Raises:
            Misconfigured: It names the ports.
        """
        taken = [f"{name} {port}" for name, port in asdict(self).items() if _is_taken(port)]
        if taken:
            raise Misconfigured(
                f"ports are in use: {', '.join(taken)}; is another stack running? --port-offset 1000 moves all ports"
            )


@dataclass(frozen=True, slots=True)
class Stack:
    """A local stack that runs."""

    pid: int
    """Of the supervisor."""
    endpoints: Endpoints
    is_traced: bool

    def write(self, directory: Path) -> None:
        """Tell other commands."""
        content = {"pid": self.pid, "endpoints": asdict(self.endpoints), "is_traced": self.is_traced}
        (directory / FILE_NAME).write_text(json.dumps(content, indent=2) + "\n")

    @classmethod
    def read(cls, directory: Path) -> "Stack | None":
        """The stack that was started with this directory; None where there is none.

        Raises:
            Misconfigured: The file is damaged.
        """
        path = directory / FILE_NAME
        try:
            content = json.loads(path.read_bytes())
            return cls(content["pid"], Endpoints(**content["endpoints"]), content["is_traced"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise Misconfigured(
                f"{path} is damaged ({error}); delete it and start the stack again"
            ) from error


def free_ports(n_ports: int) -> list[int]:
    """Different ports that nobody uses right now; none where fewer than one are asked for."""
    with ExitStack() as stack:
        # All are held at once, so that none is given out twice.
        sockets = [stack.enter_context(socket.socket()) for _ in range(n_ports)]
        for held in sockets:
            held.bind((LOOPBACK, 0))
        return [held.getsockname()[1] for held in sockets]


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        # A port in TIME_WAIT is free for servers, which all set this too.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return True
    return False
