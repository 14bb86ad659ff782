"""`icestream emit`: runs an emitter, by default into the local stack."""

import os
import sys
from collections.abc import Sequence

import typer

from icestream.cli.access import Access, access
from icestream.cli.target import DEFAULT_DIRECTORY, DirectoryOption, nats_url, otlp_endpoint
from icestream.errors import Misconfigured
from icestream.runtime.local_stack import service_environment
from icestream.runtime.supervisor import python_command


def emit(
    context: typer.Context,
    directory: DirectoryOption = DEFAULT_DIRECTORY,
) -> None:
    """Publish a data set or realtime messages (--dataset PATH), or live simulated events.

    --rate 1000 --poisson sets the pace. All other flags are the emitter's: `icestream emit -- --help` shows them.
    Where NATS asks who we are, give `icestream --nats-seed-file` the seed of its user for emitters.
    """
    arguments = list(context.args)
    if not _has(arguments, "--nats-url"):
        arguments = ["--nats-url", nats_url(directory, None), *arguments]
    arguments += _credentials(access(), arguments)
    command = python_command("services.emitter", *arguments)
    sys.stdout.flush()
    # The emitter takes our place: signals, exit status and terminal are its own.
    os.execve(command[0], command, service_environment(otlp_endpoint(directory)))  # noqa: S606


def _credentials(ours: Access, arguments: Sequence[str]) -> list[str]:
    """Our own as the emitter's flags, as far as neither its flags nor its environment say otherwise."""
    is_tls_asked_for = ours.ca_file is not None or any("tls://" in argument for argument in arguments)
    if ours.tls and not is_tls_asked_for:
        raise Misconfigured("--tls: an emitter is asked for it by its URL; write --nats-url tls://HOST:PORT")
    files = {"NATS_CA": ours.ca_file, "NATS_SEED": ours.nats_seed_file}
    flags = []
    for name, path in files.items():
        flag = f"--{name.lower().replace('_', '-')}"
        if path is not None and not _has(arguments, flag) and f"ICESTREAM_EMITTER_{name}" not in os.environ:
            flags += [flag, str(path)]
    return flags


def _has(arguments: Sequence[str], flag: str) -> bool:
    return any(argument.partition("=")[0] == flag for argument in arguments)
