"""All secrets of a deployment, as the files that NATS, the services and their clients read."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from icestream.errors import Misconfigured
from icestream.runtime.certificates import CertificateAuthority, expires_at
from icestream.runtime.nkey_pairs import new_seed, public_key
from icestream.runtime.tokens import new_token, token_line

NATS_USERS = {
    "emitter": "emitters",
    "router": "routers",
    "scanner": "scanner",
    "scan-worker": "scan workers",
    "recorder": "recorders",
    "nats-exporter": "NATS exporter",
    "operator": "you, for the `icestream` commands",
    "subscriber": "whoever only reads results",
    "stream-replicas": "the job of the Helm chart",
}
"""Each user of deploy/nats/users.conf, and who logs in as it."""

_PEOPLES = ("operator", "subscriber", "stream-replicas")
"""Users that no container of deploy/compose.yaml logs in as."""

CALLER = "operator"
"""Whose bearer token is made; others are lines beside it."""

_HERE = ("localhost", "127.0.0.1")
_SERVER_HOSTS = {"nats": ("nats",), "grpc": ("router", "scanner", "recorder")}
"""What the servers are called in deploy/compose.yaml."""


@dataclass(frozen=True, slots=True)
class SecretFile:
    """One file."""

    path: Path
    """Below the folder of all."""
    text: str = field(repr=False)
    meaning: str
    holder: str
    """Who gets it."""
    is_mounted: bool = True
    """Whether a container gets it, which runs as somebody else."""


def new_secrets(hosts: Sequence[str]) -> list[SecretFile]:
    """Make everything anew.

    Args:
        hosts: Names and addresses that clients reach the servers by, beside localhost and the names in compose.

    Raises:
        Misconfigured: One of them is no host.
    """
    authority = CertificateAuthority.create()
    seeds = {user: new_seed() for user in NATS_USERS}
    return [
        SecretFile(
            Path("ca.crt"),
            authority.certificate_pem.decode(),
            f"authority to trust, {_until(authority.certificate_pem)}",
            "every client",
        ),
        SecretFile(
            Path("ca.key"),
            authority.key_pem.decode(),
            "signs certificates",
            "nobody: keep it away",
            is_mounted=False,
        ),
        *_certificate_files(authority, "nats", "NATS", hosts),
        SecretFile(Path("nats/nkeys.conf"), _public_keys(seeds), "public keys of the users", "NATS"),
        *(
            SecretFile(
                Path(f"nats/{user}.seed"),
                f"{seed}\n",
                f"logs in as {user}",
                NATS_USERS[user],
                is_mounted=user not in _PEOPLES,
            )
            for user, seed in seeds.items()
        ),
        *_certificate_files(authority, "grpc", "router, scanner, recorder", hosts),
        *_token_files(new_token()),
    ]


def write_secrets(directory: Path, secrets: Sequence[SecretFile]) -> None:
    """Write the files into a folder that is for its owner's eyes alone.

    What a container gets is hidden by the folder alone: it gets that one file, and runs as somebody else. All others
    are readable for their owner only.

    Raises:
        Misconfigured: One of them is there, or others can look into the folder, and then none is written; or they
            cannot be written.
    """
    if directory.is_dir() and directory.stat().st_mode & 0o077:
        raise Misconfigured(
            f"others can look into {directory}: name a folder that is not there yet, or chmod 700 this one"
        )
    for secret in secrets:
        if (path := directory / secret.path).exists():
            raise Misconfigured(
                f"{path} is there, and secrets are never overwritten: name another folder, or move this one away"
            )
    try:
        for secret in secrets:
            _write(directory / secret.path, secret.text, mode=0o644 if secret.is_mounted else 0o600)
    except OSError as error:
        raise Misconfigured(f"{error.filename} cannot be written: {error.strerror}") from error


def nkey_variable(user: str) -> str:
    """What the public key of a user is called in the server's configuration."""
    return f"{user.upper().replace('-', '_')}_NKEY"


def _public_keys(seeds: dict[str, str]) -> str:
    lines = [f"{nkey_variable(user)}: {public_key(seed)}" for user, seed in seeds.items()]
    # Not secret, but whoever may write here decides who gets in.
    return "\n".join(["# Public keys of the users in users.conf.", *lines, ""])


def _certificate_files(
    authority: CertificateAuthority, server: str, holder: str, hosts: Sequence[str]
) -> list[SecretFile]:
    names = dict.fromkeys((*_SERVER_HOSTS[server], *_HERE, *hosts))
    issued = authority.issue(server, list(names))
    return [
        SecretFile(
            Path(f"{server}/server.crt"),
            issued.certificate_pem.decode(),
            f"certificate, {_until(issued.certificate_pem)}",
            holder,
        ),
        SecretFile(Path(f"{server}/server.key"), issued.key_pem.decode(), "key to the certificate", holder),
    ]


def _until(certificate_pem: bytes) -> str:
    return f"good until {expires_at(certificate_pem):%Y-%m-%d}"


def _token_files(token: str) -> list[SecretFile]:
    hashes = f"{token_line(CALLER, token)}\n"
    return [
        SecretFile(Path("grpc/tokens"), hashes, "who may call", "router, scanner, recorder"),
        SecretFile(
            Path(f"grpc/{CALLER}.token"),
            f"{token}\n",
            "bearer token",
            "you, for the `icestream` commands",
            is_mounted=False,
        ),
    ]


def _write(path: Path, text: str, *, mode: int) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Never through a link that somebody left here, and never looser than it is to be.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        # Whatever the umask is: containers are to read it.
        os.fchmod(descriptor, mode)
