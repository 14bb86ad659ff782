"""IceCube's realtime messages through the whole stack, as any other events: the five public ones where they are."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from icestream.physics.directions import opening_angles_rad, unit_vectors
from icestream.readers.realtime import read_realtime_event, realtime_files
from icestream.runtime.deadletters import DeadLetterBox
from icestream.runtime.jetstream.connection import connect
from tests.support.eventually import eventually
from tests.support.stack import NAMES, UpStack, events_left, reconstructions_of
from tests.unit.cli.event_cases import write_alerts
from tests.unit.readers.realtime.realtime_messages import REAL_EVENTS

DAMAGED = "damaged.json"


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The real messages, or ours where those are not there; nothing else lies beside them."""
    folder = tmp_path_factory.mktemp("realtime") / "alerts"
    if REAL_EVENTS.exists():
        shutil.copytree(REAL_EVENTS, folder)
    else:
        write_alerts(folder)
    return realtime_files(folder)


@pytest.fixture(scope="module")
def folder(messages: list[Path]) -> Path:
    """The messages, and a damaged one among them."""
    folder = messages[0].parent
    whole = messages[0].read_bytes()
    (folder / DAMAGED).write_bytes(whole[: len(whole) // 2])
    return folder


def run(*command: str, status: int = 0) -> tuple[str, str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout, done.stderr


async def test_emitted_messages_are_reconstructed_and_damaged_ones_are_dead_letters(
    stack: UpStack, messages: list[Path], folder: Path
) -> None:
    for _ in range(2):
        # A second time changes nothing.
        run(*stack.command("emit", "--dataset", str(folder)))

    async def all_answered() -> bool:
        return await events_left(stack) == 0

    await eventually(all_answered, timeout_s=60.0, poll_s=0.1)
    expected = {read_realtime_event(path).event.id for path in messages}
    run_ids = sorted({event_id.run_id for event_id in expected})
    found = [row for run_id in run_ids for row in await reconstructions_of(stack, run_id)]
    assert sorted(row.event_id for row in found) == sorted(expected)
    for row in found:
        assert row.truth is None
        assert 0 < row.estimate.radius50_rad < row.estimate.radius90_rad

    async with connect(stack.endpoints.nats_url, name="test") as connection:
        letters = [stored.letter async for stored in DeadLetterBox(connection, NAMES).letters()]
    [letter] = [letter for letter in letters if DAMAGED in letter.problem]
    assert (letter.service, letter.reason) == ("emitter", "invalid_event")
    assert "this is no JSON document" in letter.problem


def test_messages_are_reconstructed_on_request_and_compared_with_the_online_track(
    stack: UpStack, messages: list[Path], folder: Path
) -> None:
    output, _ = run(*stack.command("reconstruct", str(messages[-1])))
    assert str(read_realtime_event(messages[-1]).event.id) in output
    assert "opening angle to the online track" in output
    _, errors = run(*stack.command("reconstruct", str(folder)), status=1)
    assert DAMAGED in errors.replace("\n", "")
    assert f"1 of {len(messages) + 1} events have no reconstruction" in errors


def test_a_message_is_scanned_as_the_alert_that_it_is(
    stack: UpStack, messages: list[Path], tmp_path: Path
) -> None:
    event = read_realtime_event(messages[-1])
    flags = ("--reco", "dummy", "--nsides", "1:0", "--json", "--out", str(tmp_path))
    output, _ = run(*stack.command("scan", str(messages[-1]), *flags))
    content = json.loads(output)
    assert content["complete"]
    assert content["event"]["id"] == str(event.event.id)
    assert (content["event"]["type"], content["event"]["real"]) == (event.event_type, True)
    assert content["event"]["mjd"] == event.mjd
    assert content["off_truth_deg"] is None
    assert 0 <= content["online"]["off_deg"] <= 180
    [skyreader] = [path for path in content["files"] if path.endswith(".json")]
    metadata = json.loads(Path(skyreader).read_text())["nside-1"]["metadata"]
    assert (metadata["event_type"], metadata["is_real_event"]) == (event.event_type, True)


@pytest.mark.parametrize(
    ("file", "published_deg"),
    [
        ("138632_31747601.json", None),
        # Right ascension and declination of the published full scan of this alert.
        ("run00136766-evt000007637140-GOLD.pkl", (224.121, 41.312)),
    ],
)
def test_published_alerts_are_found_where_icecube_found_them(
    stack: UpStack, tmp_path: Path, file: str, published_deg: tuple[float, float] | None
) -> None:
    path = REAL_EVENTS / file
    if not path.exists():
        pytest.skip(f"{path} is not part of the repository")
    output, _ = run(*stack.command("scan", str(path), "--json", "--out", str(tmp_path)))
    content = json.loads(output)
    assert content["complete"]
    assert "SplineMPE" in content["online"]["name"]
    assert content["online"]["off_deg"] < 1.0
    if published_deg is not None:
        assert off_deg((content["best"]["ra_deg"], content["best"]["dec_deg"]), published_deg) < 1.0


def off_deg(first: tuple[float, float], second: tuple[float, float]) -> float:
    """Angle between two directions in the sky."""
    vectors = [unit_vectors(np.radians(ra), np.radians(90 - dec)) for ra, dec in (first, second)]
    return float(np.degrees(opening_angles_rad(*vectors)))
