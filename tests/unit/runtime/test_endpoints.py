import socket
from dataclasses import asdict
from pathlib import Path

import pytest

from icestream.errors import Misconfigured
from icestream.runtime.endpoints import FILE_NAME, Endpoints, Stack


def test_every_default_port_is_another() -> None:
    ports = list(asdict(Endpoints()).values())
    assert len(set(ports)) == len(ports)


def test_an_offset_moves_every_port() -> None:
    moved = asdict(Endpoints.shifted(1_000))
    assert moved == {name: port + 1_000 for name, port in asdict(Endpoints()).items()}
    assert Endpoints.shifted(0) == Endpoints()


def test_free_ports_are_free_and_each_another() -> None:
    endpoints = Endpoints.free()
    endpoints.check_free()
    ports = list(asdict(endpoints).values())
    assert len(set(ports)) == len(ports)


def test_ports_in_use_are_named_with_a_way_out() -> None:
    endpoints = Endpoints.free()
    with socket.socket() as other:
        other.bind(("127.0.0.1", endpoints.nats))
        other.listen()
        with pytest.raises(Misconfigured, match=f"in use: nats {endpoints.nats};.*--port-offset"):
            endpoints.check_free()


def test_urls_are_on_loopback() -> None:
    endpoints = Endpoints(nats=1, otlp=2, jaeger=3)
    assert endpoints.nats_url == "nats://127.0.0.1:1"
    assert endpoints.otlp_url == "http://127.0.0.1:2"
    assert endpoints.jaeger_url == "http://127.0.0.1:3"


def test_other_commands_find_the_stack_in_its_folder(tmp_path: Path) -> None:
    stack = Stack(pid=7, endpoints=Endpoints.shifted(100), is_traced=True)
    stack.write(tmp_path)
    assert Stack.read(tmp_path) == stack


def test_a_folder_without_a_stack_has_none(tmp_path: Path) -> None:
    assert Stack.read(tmp_path) is None
    assert Stack.read(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"pid": 1, "endpoints": {"ntas": 1}, "is_traced": true}']
)
def test_a_damaged_file_is_named_with_a_way_out(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE_NAME).write_text(content)
    with pytest.raises(Misconfigured, match=f"{FILE_NAME} is damaged.*delete it"):
        Stack.read(tmp_path)
