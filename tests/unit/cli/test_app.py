import sys
from pathlib import Path

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from icestream.cli import app as app_module
from icestream.cli.app import app, main
from icestream.errors import InvalidDataset

COMMANDS = {
    "up",
    "status",
    "demo",
    "simulate",
    "emit",
    "reconstruct",
    "watch",
    "scan",
    "scans",
    "event",
    "records",
    "deadletters",
    "trace",
    "secrets",
}
GROUPS = {
    "deadletters": {"list", "show", "replay", "purge"},
    "event": {"show", "export"},
    "records": {"list", "show", "stats", "export"},
    "secrets": {"create"},
    "scans": {"list", "show", "watch", "cancel", "recos"},
}


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    """The status that the installed command ends with."""
    monkeypatch.setattr(sys, "argv", ["icestream", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def commands() -> list[list[str]]:
    group = get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    found = [[name] for name in group.commands]
    for name in GROUPS:
        inner = group.commands[name]
        assert isinstance(inner, typer.core.TyperGroup)
        found += [[name, each] for each in inner.commands]
    return found


def test_the_commands_are_the_ones_that_are_promised() -> None:
    assert {name for [name, *_] in commands()} == COMMANDS
    for group, names in GROUPS.items():
        assert {rest[0] for [name, *rest] in commands() if rest and name == group} == names


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_has_help(command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output
    assert len(result.output.splitlines()) > 5


def test_without_a_command_the_help_is_shown() -> None:
    result = CliRunner().invoke(app, [])
    assert "demo" in result.output
    assert "Neutrino event reconstruction" in result.output


def test_an_unknown_data_set_is_one_clear_line_and_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "reconstruct", "/no/such/folder") == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "icestream: /no/such/folder: no such file or folder; expected the folder of a Kaggle"
    )


def test_dead_letters_must_be_chosen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run_main(monkeypatch, "deadletters", "replay", "--dir", str(tmp_path)) == 1
    assert "their numbers, or --all" in capsys.readouterr().err
    assert run_main(monkeypatch, "deadletters", "purge", "3", "--all", "--dir", str(tmp_path)) == 1


def test_an_unknown_flag_is_status_2(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_main(monkeypatch, "demo", "--evnets", "3") == 2


def failing(monkeypatch: pytest.MonkeyPatch, problem: str) -> None:
    def fail() -> None:
        raise InvalidDataset("/data", problem)

    monkeypatch.setattr(app_module, "app", fail)


@pytest.mark.parametrize("problem", ["[request id: 1] failed", "no file [/tmp/x]", "choose among [a,b]"])
def test_brackets_in_a_failure_are_shown_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], problem: str
) -> None:
    failing(monkeypatch, problem)
    assert run_main(monkeypatch) == 1
    assert capsys.readouterr().err == f"icestream: /data: {problem}\n"


def test_a_long_failure_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, "a column is missing; " * 10)
    assert run_main(monkeypatch) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
