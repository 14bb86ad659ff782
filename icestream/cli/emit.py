"""`icestream emit`: runs an emitter, by default into the local stack."""

import os
import sys

import typer

from icestream.cli.target import DEFAULT_DIRECTORY, DirectoryOption
from icestream.runtime.endpoints import Stack
from icestream.runtime.local_stack import service_environment
from icestream.runtime.supervisor import python_command


def emit(
    context: typer.Context,
    directory: DirectoryOption = DEFAULT_DIRECTORY,
) -> None:
    """Publish a data set (--dataset DIR), or live simulated events; --rate 1000 --poisson sets the pace.

    All other flags are the emitter's: `icestream emit -- --help` shows them.
    """
    arguments = list(context.args)
    stack = Stack.read(directory)
    if stack is not None and not any(argument.startswith("--nats-url") for argument in arguments):
        arguments = ["--nats-url", stack.endpoints.nats_url, *arguments]
    otlp = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if otlp is None and stack is not None and stack.is_traced:
        otlp = stack.endpoints.otlp_url
    command = python_command("services.emitter", *arguments)
    sys.stdout.flush()
    # The emitter takes our place: signals, exit status and terminal are its own.
    os.execve(command[0], command, service_environment(otlp))  # noqa: S606
