"""`icestream emit`: runs an emitter, by default into the local stack."""

import os
import sys

import typer

from icestream.cli.target import DEFAULT_DIRECTORY, DirectoryOption, nats_url, otlp_endpoint
from icestream.runtime.local_stack import service_environment
from icestream.runtime.supervisor import python_command


def emit(
    context: typer.Context,
    directory: DirectoryOption = DEFAULT_DIRECTORY,
) -> None:
    """Publish a data set or realtime messages (--dataset PATH), or live simulated events.

    --rate 1000 --poisson sets the pace. All other flags are the emitter's: `icestream emit -- --help` shows them.
    """
    arguments = list(context.args)
    if not any(argument.startswith("--nats-url") for argument in arguments):
        arguments = ["--nats-url", nats_url(directory, None), *arguments]
    command = python_command("services.emitter", *arguments)
    sys.stdout.flush()
    # The emitter takes our place: signals, exit status and terminal are its own.
    os.execve(command[0], command, service_environment(otlp_endpoint(directory)))  # noqa: S606
