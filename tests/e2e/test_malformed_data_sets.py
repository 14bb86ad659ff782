"""What is wrong with one event is said of that event; the rest of the data set goes through."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from icestream.runtime.deadletters import DeadLetterBox, StoredDeadLetter
from icestream.runtime.jetstream.connection import connect
from tests.support.eventually import eventually
from tests.support.kaggle_files import drop, replace, write_folder
from tests.support.stack import NAMES, UpStack, events_left, reconstructed_events, running

BATCH = 1
GOOD, NAN_TIME, NEGATIVE_CHARGE, UNKNOWN_SENSOR, NO_PULSES, TOO_MANY, OUTSIDE, LARGE, ALSO_GOOD = range(
    501, 510
)
# The large one is good, and too large for a message of 1 MB.
N_PULSES = {TOO_MANY: 300_000, NO_PULSES: 0, LARGE: 120_000}


def malformed_pulses(table: pa.Table) -> pa.Table:
    columns = {name: table[name].to_numpy().copy() for name in ("event_id", "time", "charge", "sensor_id")}
    time = columns["time"].astype(np.float64)
    time[np.flatnonzero(columns["event_id"] == NAN_TIME)[3]] = np.nan
    columns["charge"][np.flatnonzero(columns["event_id"] == NEGATIVE_CHARGE)[3]] = -0.25
    columns["sensor_id"][np.flatnonzero(columns["event_id"] == UNKNOWN_SENSOR)[3]] = 6000
    for name in ("charge", "sensor_id"):
        table = replace(table, name, pa.chunked_array([columns[name]]))
    return replace(table, "time", pa.chunked_array([time]))


def malformed_meta(table: pa.Table) -> pa.Table:
    last = table["last_pulse_index"].to_numpy().copy()
    last[table["event_id"].to_numpy() == OUTSIDE] += 10_000_000
    return replace(table, "last_pulse_index", pa.chunked_array([last]))


@pytest.fixture
def malformed(tmp_path: Path) -> Path:
    event_ids = list(range(GOOD, ALSO_GOOD + 1))
    n_pulses = [N_PULSES.get(event_id, 20) for event_id in event_ids]
    return write_folder(
        tmp_path / "malformed",
        event_ids=event_ids,
        n_pulses=n_pulses,
        edit_pulses=malformed_pulses,
        edit_meta=malformed_meta,
    )


async def letters_by_event(stack: UpStack) -> dict[int, StoredDeadLetter]:
    async with connect(stack.endpoints.nats_url, name="test") as connection:
        letters = [letter async for letter in DeadLetterBox(connection, NAMES).letters()]
    return {int(letter.letter.event_id.split(".")[1]): letter for letter in letters if letter.letter.event_id}


async def test_each_bad_event_is_dead_lettered_with_its_reason_and_the_others_are_reconstructed(
    stack: UpStack, log: Path, malformed: Path
) -> None:
    with running(stack.command("emit", "--dataset", str(malformed)), log) as emitter:
        assert emitter.wait(60) == 0, log.read_text()

    async def all_answered() -> bool:
        return await events_left(stack) == 0

    await eventually(all_answered, timeout_s=60.0, poll_s=0.1)
    reconstructed = await reconstructed_events(stack, BATCH)
    ours = [event_id.event_id for event_id in reconstructed if GOOD <= event_id.event_id <= ALSO_GOOD]
    assert sorted(ours) == [GOOD, LARGE, ALSO_GOOD]
    letters = await letters_by_event(stack)
    expected = {
        NAN_TIME: "a time is NaN",
        NEGATIVE_CHARGE: "a charge is negative",
        UNKNOWN_SENSOR: "sensor 6000 is not in detector 'icecube86'",
        NO_PULSES: "the event has no pulses",
        TOO_MANY: "300000 pulses; at most 200000",
        OUTSIDE: "pulse",
    }
    assert {event_id: letters[event_id].letter.reason for event_id in expected} == dict.fromkeys(
        expected, "invalid_event"
    )
    for event_id, problem in expected.items():
        assert problem in letters[event_id].letter.problem


@pytest.mark.parametrize(
    ("edit", "explanation"),
    [
        (drop("charge"), "charge"),
        (lambda table: table.rename_columns([*table.column_names[:-1], "x"]), "event_id"),
    ],
)
def test_a_data_set_without_a_column_is_refused_in_one_clear_line(
    stack: UpStack, log: Path, tmp_path: Path, edit: object, explanation: str
) -> None:
    folder = write_folder(tmp_path / "broken", edit_pulses=edit)  # type: ignore[arg-type]
    with running(stack.command("emit", "--dataset", str(folder)), log) as emitter:
        assert emitter.wait(60) == 1
    last_line = log.read_text().strip().splitlines()[-1]
    assert "invalid_dataset" in last_line
    assert explanation in last_line
    assert "Traceback" not in log.read_text()


async def test_a_test_split_without_angles_goes_through(stack: UpStack, log: Path, tmp_path: Path) -> None:
    folder = write_folder(
        tmp_path / "blind", event_ids=(601, 602), n_pulses=(30, 200), edit_meta=drop("azimuth", "zenith")
    )
    (folder / "train").rename(folder / "test")
    (folder / "train_meta.parquet").rename(folder / "test_meta.parquet")
    with running(stack.command("emit", "--dataset", str(folder)), log) as emitter:
        assert emitter.wait(60) == 0, log.read_text()

    async def both() -> bool:
        return {601, 602} <= {event_id.event_id for event_id in await reconstructed_events(stack, BATCH)}

    await eventually(both, timeout_s=30.0, poll_s=0.1)
