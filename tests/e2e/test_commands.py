"""The commands as a newcomer types them, one after the other."""

import csv
import json
import subprocess
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.stack import ICESTREAM, UpStack, running

N_EVENTS = 60


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated") / "set"
    run(ICESTREAM, "simulate", "--events", str(N_EVENTS), "--seed", "501", "--out", str(folder))
    return folder


def test_a_simulated_data_set_has_the_files_of_the_kaggle_format(dataset: Path) -> None:
    names = {path.relative_to(dataset).as_posix() for path in dataset.rglob("*") if path.is_file()}
    assert names == {"train_meta.parquet", "train/batch_1.parquet", "sensor_geometry.csv"}


async def test_an_emitted_data_set_is_seen_by_a_watcher(
    stack: UpStack, dataset: Path, tmp_path: Path
) -> None:
    watch_log = tmp_path / "watch.log"
    with running(stack.command("watch", "--events", "5", "--json"), watch_log) as watcher:
        run(*stack.command("emit", "--dataset", str(dataset), "--rate", "10"))
        assert watcher.wait(30) == 0
    seen = [json.loads(line) for line in watch_log.read_text().splitlines() if line.startswith("{")]
    assert len(seen) == 5
    assert all(row["detector"] == "icecube86" and row["radius50_rad"] > 0 for row in seen)


def test_events_are_reconstructed_on_request(stack: UpStack, dataset: Path, tmp_path: Path) -> None:
    submission = tmp_path / "submission.csv"
    command = stack.command("reconstruct", str(dataset), "--submission", str(submission))
    output = run(*command)
    assert "opening angle to the true direction" in output
    with submission.open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["event_id"]) for row in rows] == list(range(N_EVENTS))
    assert all(0 <= float(row["azimuth"]) < 6.2832 and 0 <= float(row["zenith"]) <= 3.1416 for row in rows)


def test_status_shows_every_part_and_stream(stack: UpStack) -> None:
    output = run(*stack.command("status"))
    assert "does not answer" not in output
    for word in ("router", "scanner", "EVENTS", "RECONSTRUCTIONS", "SCANS", "SCANWORK", "DEADLETTER"):
        assert word in output
    heard = output.splitlines()
    assert len([line for line in heard if "scan-worker" in line and "running" in line]) == 2
    for service in ("router", "scanner", "recorder", "nats-exporter"):
        assert any(service in line and "running" in line and "s ago" in line for line in heard), output


def test_a_dead_letter_can_be_looked_at_replayed_and_thrown_away(stack: UpStack, tmp_path: Path) -> None:
    def letters(*arguments: str) -> str:
        return run(ICESTREAM, "deadletters", arguments[0], "--dir", str(stack.directory), *arguments[1:])

    letters("purge", "--all") if "no dead letters" not in letters("list") else None
    nats = ["--nats", stack.endpoints.nats_url]
    publish_garbage(stack, b"not an event")
    number = wait_for_letter(stack)
    shown = letters("show", number, "--save", str(tmp_path / "message"))
    assert "undecodable_message" in shown
    assert (tmp_path / "message").read_bytes() == b"not an event"

    assert "1 sent again" in letters("replay", number)
    # It is as bad as before, so it comes back under another number.
    again = wait_for_letter(stack)
    assert again != number
    assert "1 thrown away" in letters("purge", again, *nats)
    assert "no dead letters" in letters("list")


def publish_garbage(stack: UpStack, payload: bytes) -> None:
    import asyncio

    from icestream.runtime.jetstream.connection import connect
    from icestream.runtime.jetstream.publisher import WindowedPublisher

    async def publish() -> None:
        async with (
            connect(stack.endpoints.nats_url, name="test") as connection,
            WindowedPublisher(connection) as publisher,
        ):
            subject = "icestream.events.icecube86.garbage"
            await (await publisher.publish(subject, payload, message_id="garbage-1"))

    asyncio.run(publish())


def wait_for_letter(stack: UpStack) -> str:
    import asyncio

    from icestream.runtime.deadletters import DeadLetterBox
    from icestream.runtime.jetstream.connection import connect
    from icestream.runtime.jetstream.topology import Names

    async def wait() -> str:
        found: list[int] = []

        async def one() -> bool:
            async with connect(stack.endpoints.nats_url, name="test") as connection:
                found[:] = [letter.sequence async for letter in DeadLetterBox(connection, Names()).letters()]
            return len(found) == 1

        await eventually(one, timeout_s=20.0, poll_s=0.1)
        return str(found[0])

    return asyncio.run(wait())
