from hypothesis import given
from hypothesis import strategies as st

from icestream.runtime import deadletters
from icestream.runtime.deadletters import DeadLetter
from icestream.runtime.jetstream.publisher import MESSAGE_ID_HEADER
from services.recorder.dead_letter_rows import dead_letter_row
from services.recorder.reconstruction_rows import Row, day_of
from services.recorder.schema import DEAD_LETTERS
from tests.unit.recorder.recorder_cases import RECORDED_UNIX_NS, START_UNIX_NS

SUBJECT = "icestream.deadletter.router"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
HEADERS = [value for name, value in vars(deadletters).items() if name.isupper() and isinstance(value, str)]


def row_of(headers: dict[str, str]) -> Row:
    return dead_letter_row(
        SUBJECT, headers, sequence=7, stored_unix_ns=START_UNIX_NS, recorded_unix_ns=RECORDED_UNIX_NS
    )


def test_everything_that_the_headers_say_is_recorded() -> None:
    letter = DeadLetter(
        service="router",
        reason="invalid_event",
        problem="no pulses",
        n_deliveries=3,
        subject="icestream.events.toy.test",
        message_id="toy/1.2.0",
        event_id="1.2.0",
        payload=b"",
        sequence=12,
        traceparent=TRACEPARENT,
    )
    row = row_of({MESSAGE_ID_HEADER: "router/toy/1.2.0/12/3"} | letter.headers(START_UNIX_NS - 1))
    assert row == {
        "letter_id": "router/toy/1.2.0/12/3",
        "dead_day": day_of(START_UNIX_NS - 1),
        "dead_unix_ns": START_UNIX_NS - 1,
        "service": "router",
        "reason": "invalid_event",
        "problem": "no pulses",
        "n_deliveries": 3,
        "event_name": "1.2.0",
        "original_subject": "icestream.events.toy.test",
        "original_message_id": "toy/1.2.0",
        "original_sequence": 12,
        "trace_id": TRACEPARENT[3:35],
        "stream_sequence": 7,
        "recorded_unix_ns": RECORDED_UNIX_NS,
    }


def test_a_letter_without_any_header_is_recorded_under_its_place() -> None:
    row = row_of({})
    assert row["letter_id"] == f"#7/{START_UNIX_NS}"
    assert (row["service"], row["reason"], row["dead_unix_ns"]) == ("router", "unknown", START_UNIX_NS)


def test_a_message_id_that_no_index_holds_is_replaced_by_its_checksum() -> None:
    one, two = (row_of({MESSAGE_ID_HEADER: "x" * 3000 + end}) for end in "ab")
    assert len(one["letter_id"]) == 64
    assert one["letter_id"] != two["letter_id"]


@given(st.dictionaries(st.sampled_from([*HEADERS, MESSAGE_ID_HEADER]), st.text(max_size=2000)))
def test_whatever_headers_say_there_is_a_row_that_databases_take(headers: dict[str, str]) -> None:
    row = row_of(headers)
    assert row == row_of(headers)
    assert set(row) == {column.name for column in DEAD_LETTERS.columns}
    for value in row.values():
        if isinstance(value, str):
            assert "\0" not in value
            assert len(value.encode()) <= 4000
        elif isinstance(value, int):
            assert 0 <= value < 2**63
    assert len(row["letter_id"]) <= 200


@given(st.text(max_size=30))
def test_numbers_that_are_none_are_zero(text: str) -> None:
    number = row_of({deadletters.DELIVERIES: text})["n_deliveries"]
    assert number == 0 or str(number) == text.strip().lstrip("0")
