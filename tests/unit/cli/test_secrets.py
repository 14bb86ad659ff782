"""`icestream secrets create`: files that servers and clients take, for their owner's eyes alone."""

import os
import ssl
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from icestream.errors import Misconfigured
from icestream.runtime.nkey_pairs import public_key
from icestream.runtime.secret_files import NATS_USERS, new_secrets, nkey_variable, write_secrets
from icestream.runtime.tokens import parse_tokens, read_token
from tests.unit.cli.conftest import Command
from tests.unit.deploy.recipes import REPOSITORY


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "secrets"


def hosts_of(certificate: Path) -> set[str]:
    names = x509.load_pem_x509_certificate(certificate.read_bytes()).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    return {
        *names.value.get_values_for_type(x509.DNSName),
        *map(str, names.value.get_values_for_type(x509.IPAddress)),
    }


def test_every_file_is_told_and_lies_in_a_folder_for_its_owner_alone(
    icestream: Command, directory: Path
) -> None:
    status, table, _ = icestream("secrets", "create", directory)

    files = [path for path in directory.rglob("*") if path.is_file()]
    folders = [directory, *(path for path in directory.rglob("*") if path.is_dir())]
    assert status == 0
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o700}
    assert [path for path in files if str(path.relative_to(directory)) not in table] == []


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_only_what_a_container_gets_may_be_read_by_others(
    icestream: Command, directory: Path, umask: int
) -> None:
    """Containers run as somebody else, and see no more than the one file that is mounted."""
    before = os.umask(umask)
    try:
        icestream("secrets", "create", directory)
    finally:
        os.umask(before)

    mounted = {
        directory.parent / secret["file"]
        for secret in yaml.safe_load((REPOSITORY / "deploy/compose.yaml").read_text())["secrets"].values()
    }
    files = {path: path.stat().st_mode & 0o777 for path in directory.rglob("*") if path.is_file()}
    assert len(mounted & files.keys()) == 13
    assert files == {path: 0o644 if path in mounted else 0o600 for path in files}


def test_no_moment_is_there_in_which_others_can_read_a_secret(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []

    def opened(path: Path, flags: int, mode: int = 0o777) -> int:
        modes.append(mode)
        return os_open(path, flags, mode)

    os_open = os.open
    monkeypatch.setattr(os, "open", opened)
    write_secrets(directory, new_secrets([]))
    assert set(modes) == {0o600}


def test_the_table_says_until_when_certificates_are_good(icestream: Command, directory: Path) -> None:
    _, table, _ = icestream("secrets", "create", directory)
    for name in ("ca.crt", "nats/server.crt", "grpc/server.crt"):
        certificate = x509.load_pem_x509_certificate((directory / name).read_bytes())
        [line] = [line for line in table.splitlines() if name in line]
        assert f"good until {certificate.not_valid_after_utc:%Y-%m-%d}" in line


def test_no_secret_is_shown(icestream: Command, directory: Path) -> None:
    _, table, problems = icestream("secrets", "create", directory)

    secrets = [path for path in directory.rglob("*") if path.suffix in (".seed", ".token", ".key")]
    assert len(secrets) == len(NATS_USERS) + 4
    assert [path for path in secrets if path.read_text().splitlines()[-1] in table + problems] == []


def test_what_is_there_is_never_overwritten(icestream: Command, directory: Path) -> None:
    icestream("secrets", "create", directory)
    (directory / "ca.crt").unlink()
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}

    status, _, problem = icestream("secrets", "create", directory)

    assert status == 1
    assert "is there, and secrets are never overwritten" in problem
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before


def test_a_folder_that_others_can_look_into_is_refused(icestream: Command, directory: Path) -> None:
    directory.mkdir(mode=0o755)
    status, _, problem = icestream("secrets", "create", directory)
    assert status == 1
    assert "others can look into" in problem
    assert list(directory.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told(icestream: Command, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    status, _, problem = icestream("secrets", "create", tmp_path / "file/secrets")
    assert status == 1
    assert "cannot be written" in problem


def test_certificates_name_the_hosts_that_were_asked_for(icestream: Command, directory: Path) -> None:
    icestream("secrets", "create", directory, "--host", "north.example.org", "--host", "192.0.2.7")

    everywhere = {"localhost", "127.0.0.1", "north.example.org", "192.0.2.7"}
    assert hosts_of(directory / "nats/server.crt") == {"nats", *everywhere}
    assert hosts_of(directory / "grpc/server.crt") == {"router", "scanner", "recorder", *everywhere}


def test_what_is_no_host_is_refused_before_anything_is_written(icestream: Command, directory: Path) -> None:
    status, _, problem = icestream("secrets", "create", directory, "--host", "https://north")
    assert status == 1
    assert "'https://north' is neither a host name" in problem
    assert not directory.exists()


def test_keys_belong_to_certificates_that_the_authority_signed(directory: Path) -> None:
    write_secrets(directory, new_secrets([]))

    authority = x509.load_pem_x509_certificate((directory / "ca.crt").read_bytes())
    for server in ("nats", "grpc"):
        certificate = directory / server / "server.crt"
        # Refuses a key that is another certificate's.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            certificate, directory / server / "server.key"
        )
        x509.load_pem_x509_certificate(certificate.read_bytes()).verify_directly_issued_by(authority)


def test_the_server_gets_the_public_key_of_every_seed(directory: Path) -> None:
    write_secrets(directory, new_secrets([]))

    seeds = {user: (directory / f"nats/{user}.seed").read_text().strip() for user in NATS_USERS}
    lines = (directory / "nats/nkeys.conf").read_text().splitlines()[1:]
    assert lines == [f"{nkey_variable(user)}: {public_key(seed)}" for user, seed in seeds.items()]
    assert len(set(seeds.values())) == len(NATS_USERS)


def test_the_servers_know_the_operators_token(directory: Path) -> None:
    write_secrets(directory, new_secrets([]))

    tokens, token = directory / "grpc/tokens", read_token(directory / "grpc/operator.token")
    assert list(parse_tokens(tokens.read_text(), tokens).values()) == ["operator"]
    assert token not in tokens.read_text()


def test_secrets_do_not_show_in_representations() -> None:
    files = new_secrets([])
    assert [file.path for file in files if file.text.splitlines()[-1] in repr(files)] == []


def test_a_file_in_the_way_of_the_last_one_keeps_all_from_being_written(directory: Path) -> None:
    files = new_secrets([])
    directory.mkdir(mode=0o700)
    (directory / "grpc").mkdir()
    (directory / files[-1].path).touch()
    with pytest.raises(Misconfigured, match="never overwritten"):
        write_secrets(directory, files)
    assert [path for path in directory.rglob("*") if path.is_file()] == [directory / files[-1].path]
