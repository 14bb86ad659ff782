"""The server at the Pole and the one in the North, with the very files of deploy/nats, and the link between them."""

import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

from icestream.runtime.certificates import CertificateAuthority
from icestream.runtime.nkey_pairs import new_seed, public_key
from icestream.runtime.secret_files import new_secrets, write_secrets
from tests.support.link import Link, linked
from tests.support.nats_server import START_TIMEOUT_S, NatsServer, _binary, free_port
from tests.unit.deploy.recipes import REPOSITORY

NATS_CONFIGS = REPOSITORY / "deploy/nats"
DOMAIN = "pole"


class DeployedNatsServer(NatsServer):
    """A server with a file of deploy/nats, told by flags and environment where it is."""

    def __init__(self, directory: Path, config: Path, environment: dict[str, str]) -> None:
        super().__init__(directory)
        self._command = [
            *(_binary(), "--config", str(config), "--addr", "127.0.0.1"),
            *("--port", str(self.port), "--http_port", str(self.monitoring_port)),
            *("--store_dir", str(directory / "store")),
        ]
        self._environment = environment

    def start(self) -> None:
        """Start and wait until JetStream takes requests."""
        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=os.environ | self._environment
            )
        give_up_at_s = monotonic() + START_TIMEOUT_S
        while not self._is_ready():
            if self._process.poll() is not None or monotonic() > give_up_at_s:
                self.kill()
                raise RuntimeError(f"nats-server did not start:\n{self.log}")
            sleep(0.01)


@dataclass(frozen=True)
class PoleAndNorth:
    """Both servers, which run, and the link between them, which is there."""

    pole: NatsServer
    north: NatsServer
    link: Link
    directory: Path
    certificate_of_authority: Path
    seed: str
    """Of the user that the North lets in."""
    configs: Path
    """The files that both were started with."""

    def another_pole(self, name: str, *, seed: str, authority: Path) -> NatsServer:
        """A server that would like to be the one at the Pole, not started."""
        return _pole(self.directory / name, self.configs, self.link, seed=seed, authority=authority)


@asynccontextmanager
async def pole_and_north(directory: Path, *, secrets: Path | None = None) -> AsyncIterator[PoleAndNorth]:
    """Both servers and the link for as long as the context lasts.

    Args:
        directory: For what they store and write.
        secrets: Where to make what `icestream secrets create` makes; then both have users and TLS, as
            docs/deployment.md says it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    configs = NATS_CONFIGS if secrets is None else _secure_configs(secrets)
    seed, authority = new_seed(), directory / "authority.crt"
    environment, leaf_port = _north_environment(directory, public_key(seed), authority)
    north = DeployedNatsServer(directory / "north", configs / "north.conf", environment | _tls(configs))
    async with linked(leaf_port) as link:
        pole = _pole(directory / "pole", configs, link, seed=seed, authority=authority)
        try:
            north.start()
            pole.start()
            yield PoleAndNorth(pole, north, link, directory, authority, seed, configs)
        finally:
            pole.kill()
            north.kill()


def _north_environment(directory: Path, user: str, authority: Path) -> tuple[dict[str, str], int]:
    certificates = CertificateAuthority.create()
    issued = certificates.issue("north", ["127.0.0.1"])
    authority.write_bytes(certificates.certificate_pem)
    certificate, private_key, port = directory / "north.crt", directory / "north.key", free_port()
    certificate.write_bytes(issued.certificate_pem)
    private_key.write_bytes(issued.key_pem)
    environment = {
        "ICESTREAM_LEAF_LISTEN": f"127.0.0.1:{port}",
        "ICESTREAM_LEAF_CERT": str(certificate),
        "ICESTREAM_LEAF_KEY": str(private_key),
        "ICESTREAM_LEAF_USER": user,
    }
    return environment, port


def _pole(directory: Path, configs: Path, link: Link, *, seed: str, authority: Path) -> NatsServer:
    environment = {
        "ICESTREAM_LEAF_URL": f"tls://127.0.0.1:{link.port}",
        "ICESTREAM_LEAF_CA": str(authority),
        "ICESTREAM_LEAF_SEED": seed,
    }
    return DeployedNatsServer(directory, configs / "pole.conf", environment | _tls(configs))


def _secure_configs(secrets: Path) -> Path:
    """The files beside the users' keys, with the two lines changed that are to be changed."""
    write_secrets(secrets, new_secrets([]))
    configs = secrets / "nats"
    for source in NATS_CONFIGS.glob("*.conf"):
        text = source.read_text()
        if source.name in ("pole.conf", "north.conf"):
            for old, new in (
                ("\ninclude nats.conf\n", "\ninclude secure.conf\n"),
                ('\nLINK_ACCOUNT: "$G"\n', "\nLINK_ACCOUNT: ICESTREAM\n"),
            ):
                assert text.count(old) == 1
                text = text.replace(old, new)
        (configs / source.name).write_text(text)
    return configs


def _tls(configs: Path) -> dict[str, str]:
    """What secure.conf asks for; nobody else reads it."""
    return {
        "ICESTREAM_NATS_CERT": str(configs / "server.crt"),
        "ICESTREAM_NATS_KEY": str(configs / "server.key"),
    }
