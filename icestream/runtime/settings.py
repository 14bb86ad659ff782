"""Settings of a service: environment variables with one prefix, or the same names as flags."""

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, NoReturn, Self

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict

Port = Annotated[int, Field(ge=0, le=65535)]


def _default_instance() -> str:
    return f"{socket.gethostname().split('.')[0]}-{os.getpid()}"


def _default_otlp_endpoint() -> str | None:
    # Not an alias of the field: that would replace the name with the service's prefix.
    return os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or None


class ServiceSettings(BaseSettings):
    """What every service needs to know; a service adds its own and sets `env_prefix`."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        cli_kebab_case=True,
        cli_implicit_flags=True,
    )

    nats_url: str = "nats://127.0.0.1:4222"
    """Where the NATS server is; several servers are separated by commas. tls:// asks for TLS."""
    nats_seed: Path | None = None
    """File with the seed of this service's user at NATS; without it NATS must ask nobody who is there."""
    nats_ca: Path | None = None
    """PEM file of the authorities that sign NATS' certificate; asks for TLS. Without it those of the system."""
    prefix: str = "icestream"
    """First token of every subject; deployments with different prefixes share a server in peace."""
    instance: str = Field(default_factory=_default_instance)
    """Name of this process among its kind."""
    metrics_host: str = "127.0.0.1"
    """Address on which /metrics, /healthz and /readyz are served."""
    metrics_port: Port = 0
    """Port of the same; 0 takes a free one and logs it."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level that is written."""
    log_format: Literal["console", "json"] = "console"
    """For people or for a log collector."""
    otlp_endpoint: str | None = Field(default_factory=_default_otlp_endpoint)
    """Where spans go (OTLP over gRPC), for example http://127.0.0.1:4317; without it tracing is off.

    By default what OTEL_EXPORTER_OTLP_ENDPOINT says.
    """

    @classmethod
    def where(cls, name: str) -> str:
        """What a person sets a field by, for messages."""
        prefix = str(cls.model_config.get("env_prefix", "")).upper()
        return f"--{name.replace('_', '-')} or {prefix}{name.upper()}"

    @classmethod
    def load(cls, arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Self:
        """Read flags and environment, or explain what is wrong with them and exit with status 2."""
        program = str(cls.model_config.get("cli_prog_name") or cls.__name__)
        try:
            cls._refuse_unknown_variables(environment)
            return CliApp.run(cls, cli_args=list(arguments))
        except ValidationError as error:
            problems = (f"  {_where(cls, fault['loc'])}: {fault['msg']}" for fault in error.errors())
            _refuse(f"{program}: settings are wrong:\n" + "\n".join(problems))
        except UnknownVariableError as error:
            _refuse(f"{program}: {error}")

    @classmethod
    def _refuse_unknown_variables(cls, environment: Mapping[str, str]) -> None:
        # pydantic-settings reads the variables that it knows and never looks at a misspelt one.
        prefix = str(cls.model_config.get("env_prefix", "")).upper()
        known = [f"{prefix}{name.upper()}" for name in cls.model_fields]
        for name in environment:
            if name.upper().startswith(prefix) and name.upper() not in known:
                raise UnknownVariableError(name, get_close_matches(name.upper(), known, n=1) or known)


class UnknownVariableError(Exception):
    """An environment variable has the service's prefix but names none of its settings."""

    def __init__(self, name: str, candidates: Sequence[str]) -> None:
        super().__init__(f"the environment sets {name}, which is no setting; did you mean {candidates[0]}?")


def _refuse(problem: str) -> NoReturn:
    # As argparse does for flags that do not exist.
    sys.stderr.write(f"{problem}\n")
    sys.exit(2)


def _where(cls: type[ServiceSettings], location: tuple[int | str, ...]) -> str:
    name = str(location[0]) if location else "settings"
    return cls.where(name) if name in cls.model_fields else name
