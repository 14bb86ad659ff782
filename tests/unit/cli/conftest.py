import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from icestream.cli import scan_report
from icestream.cli.app import main
from icestream.physics.detector import icecube86
from icestream.physics.simulation import simulate
from icestream.readers.kaggle import KaggleWriter
from icestream.scans.skymap import Skymap
from tests.unit.cli.fake_scan_service import FakeScanService, served

N_EVENTS = 3


class Command(Protocol):
    """The installed command: its status, and what it wrote to stdout and to stderr."""

    def __call__(self, *arguments: object) -> tuple[object, str, str]: ...


@pytest.fixture
def icestream(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    # Tables are as wide as the terminal.
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["icestream", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return call


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated") / "set"
    with KaggleWriter(folder, detector=icecube86()) as writer:
        for event in simulate(icecube86(), seed=701, n_events=N_EVENTS):
            writer.write(event)
    return folder


@pytest.fixture
def service() -> FakeScanService:
    return FakeScanService()


@pytest.fixture
def address(service: FakeScanService) -> Iterator[str]:
    with served(service) as address:
        yield address


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """What would have been written, and where: plots take seconds."""
    calls: list[dict[str, Any]] = []

    def write(skymap: Skymap, directory: Path, **options: Any) -> list[Path]:
        calls.append({"skymap": skymap, "directory": directory, **options})
        return [directory / "a.fits"]

    monkeypatch.setattr(scan_report, "write_results", write)
    monkeypatch.chdir(tmp_path)
    return calls
