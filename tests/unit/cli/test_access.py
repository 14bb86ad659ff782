"""The installed command against a service with TLS and tokens, and against a NATS that asks who is there."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from icestream.cli.access import NATS_USER, Access, access
from icestream.cli.scan_service import ScanService
from icestream.errors import BrokerUnavailable, IceStreamError, Misconfigured
from icestream.runtime.certificates import CertificateAuthority
from icestream.runtime.grpc_server import serve_grpc
from icestream.runtime.grpc_tokens import token_gate
from icestream.runtime.nkey_pairs import new_seed, public_key
from icestream.runtime.tokens import new_token
from icestream.v1 import scan_pb2, scan_pb2_grpc
from tests.support.nats_server import NatsServer, running_nats_server
from tests.unit.cli.conftest import Command
from tests.unit.cli.fake_scan_service import SCAN_ID, FakeScanService, make_scan, refusal
from tests.unit.runtime.grpc_cases import LOOPBACK, write_certificate, write_tokens

TOKEN = new_token()


class Scans(scan_pb2_grpc.ScanServiceServicer):
    """Knows one scan."""

    async def ListScans(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        return scan_pb2.ListScansResponse(scans=[make_scan()])


@pytest.fixture(scope="module")
def authority() -> CertificateAuthority:
    return CertificateAuthority.create()


@pytest.fixture
def files(authority: CertificateAuthority, tmp_path: Path) -> Path:
    """A folder with what an operator hands out, and with what goes wrong with it."""
    (tmp_path / "ca.crt").write_bytes(authority.certificate_pem)
    (tmp_path / "other.crt").write_bytes(CertificateAuthority.create().certificate_pem)
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    (tmp_path / "old-token").write_text(f"{new_token()}\n")
    (tmp_path / "seed").write_text(new_seed())
    return tmp_path


@asynccontextmanager
async def scans_served(
    files: Path, authority: CertificateAuthority | None, hosts: tuple[str, ...] = (LOOPBACK,)
) -> AsyncIterator[str]:
    """A scan service that knows the token, with TLS where there is an authority; its address."""
    certificate = None if authority is None else write_certificate(authority, files, hosts)
    tokens = write_tokens(files / "server-tokens", alerts=TOKEN)
    async with serve_grpc(
        scan_pb2.DESCRIPTOR.services_by_name["ScanService"],
        partial(scan_pb2_grpc.add_ScanServiceServicer_to_server, Scans()),
        host=LOOPBACK,
        port=0,
        max_message_bytes=1 << 20,
        grace_s=0.0,
        certificate=certificate,
        gate=token_gate(tokens, CollectorRegistry()),
    ) as port:
        yield f"{LOOPBACK}:{port}"


def make_access(files: Path, given: dict[str, Any]) -> Access:
    """Access with these files of the folder."""
    values: dict[str, Any] = {
        key: files / value if isinstance(value, str) else value for key, value in given.items()
    }
    return Access(**values)


async def run(files: Path, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The installed command, in a process of its own, as the server runs in this one."""
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "icestream.cli.app", *command.split()],
        cwd=files,
        env=os.environ | {"COLUMNS": "200"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


async def test_a_command_gets_in_by_options_and_by_the_environment(
    files: Path, authority: CertificateAuthority
) -> None:
    async with scans_served(files, authority) as address:
        command = f"--token-file token scans list --address {address} --json"
        done = await run(files, command, ICESTREAM_CA_FILE="ca.crt", ICESTREAM_TOKEN_FILE="old-token")
    assert (done.returncode, done.stderr) == (0, "")
    assert SCAN_ID in done.stdout


async def test_every_command_that_calls_says_that_a_token_is_wanted(
    files: Path, authority: CertificateAuthority, dataset: Path
) -> None:
    async with scans_served(files, authority) as address:
        for command in (
            f"scans list --address {address}",
            f"records stats --address {address}",
            f"reconstruct {dataset} --router {address}",
        ):
            done = await run(files, f"--ca-file ca.crt {command}")
            assert done.returncode == 1
            # A bar of progress may be before it.
            assert done.stderr.splitlines()[-1] == (
                f"icestream: the service at {address} asks who is calling: give --token-file (or "
                "ICESTREAM_TOKEN_FILE) with the token that its operator made for you"
            )


async def complaint(ours: Access, address: str) -> str:
    """What is said of a call that fails."""
    with pytest.raises(IceStreamError) as refused:
        async with ScanService(address, ours) as service:
            await service.scans(scan_pb2.ListScansRequest(), 1)
    return str(refused.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"ca_file": "ca.crt", "token_file": "old-token"}, "old-token (nobody has this token here"),
        ({"ca_file": "other.crt"}, "other.crt did not sign, or that has expired: give --ca-file"),
        ({"tls": True}, "shows a certificate that a public authority did not sign"),
        ({}, "where it talks TLS, give --ca-file (or ICESTREAM_CA_FILE), or --tls"),
        ({"token_file": "token"}, "is sent over TLS alone: give --ca-file"),
        ({"ca_file": "missing.crt"}, "missing.crt cannot be used (No such file or directory)"),
        ({"ca_file": "token"}, "expected a PEM file with the certificate of an authority"),
        ({"ca_file": "ca.crt", "token_file": "server-tokens"}, "expected one line with the token itself"),
    ],
)
async def test_what_keeps_a_caller_outside_is_said_with_what_to_give(
    files: Path, authority: CertificateAuthority, given: dict[str, Any], expected: str
) -> None:
    async with scans_served(files, authority) as address:
        said = await complaint(make_access(files, given), address)
    assert expected in said
    assert TOKEN not in said


async def test_a_certificate_of_another_host_is_said(files: Path, authority: CertificateAuthority) -> None:
    async with scans_served(files, authority, ("scanner.example.org",)) as address:
        said = await complaint(make_access(files, {"ca_file": "ca.crt"}), address)
    assert "shows a certificate of another host" in said


async def test_what_a_service_says_of_another_one_is_no_sign_of_our_credentials(
    service: FakeScanService, address: str
) -> None:
    service.refusal = refusal(14, "Triton does not answer: Socket closed")
    assert await complaint(Access(), address) == (
        "the scan service is not ready: Triton does not answer: Socket closed"
    )


async def test_a_service_without_tls_is_said(files: Path) -> None:
    async with scans_served(files, None) as address:
        said = await complaint(make_access(files, {"ca_file": "ca.crt", "token_file": "token"}), address)
    assert f"the service at {address} speaks no TLS: leave out --ca-file and --tls" in said


def test_options_are_forgotten_after_the_command(icestream: Command, files: Path, dataset: Path) -> None:
    status, _, _ = icestream("--ca-file", files / "missing.crt", "event", "show", dataset)
    assert status == 0
    assert access() == Access()


@pytest.fixture
def seed(files: Path) -> Path:
    return files / "seed"


@pytest.fixture
def nats(authority: CertificateAuthority, files: Path, seed: Path) -> Iterator[NatsServer]:
    """A server that knows one user, who may listen to no inboxes but its own."""
    certificate = write_certificate(authority, files)
    user = f'nkey: {public_key(seed.read_text())}, permissions: {{ subscribe: "_INBOX_{NATS_USER}.>" }}'
    config = f"""
        tls {{ cert_file: "{certificate.certificate}", key_file: "{certificate.key}" }}
        authorization {{ users: [ {{ {user} }} ] }}
    """
    with running_nats_server(files / "nats", extra_config=config) as server:
        yield server


async def test_nats_lets_in_who_has_the_seed_and_answers_to_its_inbox(nats: NatsServer, files: Path) -> None:
    ours = Access(ca_file=files / "ca.crt", nats_seed_file=files / "seed")
    async with ours.nats(nats.url, name="test") as connection:
        assert (await connection.client.jetstream().account_info()).streams == 0
        assert connection.n_permission_violations == 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"ca_file": "ca.crt"}, r"--nats-seed-file \(or ICESTREAM_NATS_SEED_FILE\)"),
        ({"nats_seed_file": "seed"}, r"--ca-file \(or ICESTREAM_CA_FILE\)"),
        ({"nats_seed_file": "seed", "ca_file": "other.crt"}, r"--ca-file \(or ICESTREAM_CA_FILE\)"),
    ],
)
async def test_what_nats_wants_is_said(
    nats: NatsServer, files: Path, given: dict[str, str], expected: str
) -> None:
    ours = make_access(files, given)
    with pytest.raises(BrokerUnavailable, match=expected):
        async with ours.nats(nats.url, name="test", timeout_s=1.0):
            pass


async def test_a_nats_without_tls_is_refused_where_tls_is_asked_for(files: Path) -> None:
    with running_nats_server(files / "plain") as server, pytest.raises(BrokerUnavailable, match="no TLS"):
        async with Access(ca_file=files / "ca.crt").nats(server.url, name="test", timeout_s=1.0):
            pass


@pytest.fixture
def emitter(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines that would have taken the process' place."""
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execve", lambda _, command, __: started.append(command))
    return started


CREDENTIALS = ("--ca-file", "ca.crt", "--nats-seed-file", "seed")


def flags_after(command: list[str], flag: str) -> list[str]:
    return [value for name, value in pairwise(command) if name == flag]


def test_an_emitter_gets_the_credentials_of_whoever_starts_it(
    icestream: Command, emitter: list[list[str]], files: Path
) -> None:
    icestream(*CREDENTIALS, "emit", "--dir", files, "--events", "1")
    [command] = emitter
    assert flags_after(command, "--nats-ca") == ["ca.crt"]
    assert flags_after(command, "--nats-seed") == ["seed"]
    assert flags_after(command, "--events") == ["1"]


def test_an_emitters_own_credentials_come_first(
    icestream: Command, emitter: list[list[str]], files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ICESTREAM_EMITTER_NATS_CA", "emitters.crt")
    icestream(*CREDENTIALS, "emit", "--dir", files, "--nats-seed", "emitters-seed")
    [command] = emitter
    assert flags_after(command, "--nats-ca") == []
    assert flags_after(command, "--nats-seed") == ["emitters-seed"]


def test_without_credentials_an_emitter_gets_none(
    icestream: Command, emitter: list[list[str]], files: Path
) -> None:
    icestream("emit", "--dir", files)
    [command] = emitter
    assert not any("--nats-ca" in part or "--nats-seed" in part for part in command)


def test_tls_without_a_file_is_asked_for_by_the_emitters_url(
    icestream: Command, emitter: list[list[str]], files: Path
) -> None:
    status, _, complaint = icestream("--tls", "emit", "--dir", files, "--nats-url", "nats://nats.example.org")
    assert (status, emitter) == (1, [])
    assert "--nats-url tls://HOST:PORT" in complaint
    icestream("--tls", "emit", "--dir", files, "--nats-url", "tls://nats.example.org")
    assert len(emitter) == 1


def test_a_file_with_no_seed_is_refused_and_not_quoted(files: Path) -> None:
    async def open_it() -> None:
        async with Access(nats_seed_file=files / "token").nats("nats://127.0.0.1:1", name="test"):
            pass

    with pytest.raises(Misconfigured) as refused:
        asyncio.run(open_it())
    assert "--nats-seed-file" in str(refused.value)
    assert TOKEN not in str(refused.value)
