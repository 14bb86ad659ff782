from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.js.api import RawStreamMsg

from icestream.errors import BrokerUnavailable, InvalidInput
from icestream.runtime.deadletters import (
    DELIVERIES,
    ORIGINAL_SEQUENCE,
    PROBLEM,
    STORED,
    DeadLetter,
    DeadLetterBox,
    DeadLetterWriter,
    StoredDeadLetter,
)
from icestream.runtime.jetstream.topology import Names
from tests.support.fake_jetstream import FakePublisher

if TYPE_CHECKING:
    from icestream.runtime.jetstream.publisher import WindowedPublisher

LETTER = DeadLetter(
    service="router",
    reason="invalid_event",
    problem="event 1.2.0 is invalid",
    n_deliveries=3,
    subject="icestream.events.toy.test",
    message_id="toy/1.2.0",
    event_id="1.2.0",
    payload=b"\x00\xff",
    sequence=41,
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
)
letters = st.builds(
    replace,
    st.just(LETTER),
    n_deliveries=st.integers(0, 1_000),
    sequence=st.integers(0, 2**63 - 1),
    payload=st.binary(max_size=20),
    problem=st.text(st.characters(exclude_categories=("Cs", "Cc", "Z")), max_size=50),
    traceparent=st.none() | st.just(LETTER.traceparent),
)


def stored(letter: DeadLetter, *, sequence: int = 7, now_unix_ns: int = 1_000) -> RawStreamMsg:
    return RawStreamMsg(
        subject=f"icestream.deadletter.{letter.service}",
        seq=sequence,
        data=letter.payload,
        headers=letter.headers(now_unix_ns),
    )


@given(letters, st.integers(1, 2**40), st.integers(0, 2**62))
def test_a_letter_survives_its_stream(letter: DeadLetter, sequence: int, now_unix_ns: int) -> None:
    read = StoredDeadLetter.of(stored(letter, sequence=sequence, now_unix_ns=now_unix_ns))
    assert read == StoredDeadLetter(sequence, now_unix_ns, letter)


@given(st.text())
def test_every_header_is_one_line_whatever_the_problem(problem: str) -> None:
    for value in replace(LETTER, problem=problem).headers(1).values():
        assert len(value.splitlines()) <= 1


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        ("first\nsecond\r\n\tthird", "first second third"),
        ("  spaces   everywhere ", "spaces everywhere"),
        ("azimuth 3°, Überlauf, 中微子\u2028next", "azimuth 3°, Überlauf, 中微子 next"),
        ("x" * 5_000, "x" * 1_000),
        ("", ""),
    ],
)
def test_a_problem_becomes_one_line_of_bounded_length(problem: str, line: str) -> None:
    assert replace(LETTER, problem=problem).headers(1)[PROBLEM] == line


def test_a_message_that_is_no_letter_of_ours_is_shown_anyhow() -> None:
    read = StoredDeadLetter.of(RawStreamMsg(subject="icestream.deadletter.other", seq=1, data=b"?"))
    assert (read.letter.service, read.letter.reason, read.letter.payload) == ("other", "unknown", b"?")
    assert (read.letter.problem, read.letter.subject, read.letter.traceparent) == ("", "", None)


@pytest.mark.parametrize("header", [DELIVERIES, ORIGINAL_SEQUENCE, STORED])
@pytest.mark.parametrize("text", ["many", "", "-1", "9" * 30, "٣"])
def test_a_number_that_is_none_does_not_hide_the_letter(header: str, text: str) -> None:
    message = RawStreamMsg(
        subject="icestream.deadletter.router", seq=1, headers={header: text, PROBLEM: "told"}
    )
    read = StoredDeadLetter.of(message)
    assert (read.letter.n_deliveries, read.letter.sequence, read.stored_unix_ns) == (0, 0, 0)
    assert read.letter.problem == "told"


@pytest.fixture
def publisher() -> FakePublisher:
    return FakePublisher()


def as_publisher(publisher: FakePublisher) -> "WindowedPublisher":
    return cast("WindowedPublisher", publisher)


async def test_a_letter_is_written_to_its_services_subject(publisher: FakePublisher) -> None:
    await DeadLetterWriter(as_publisher(publisher), Names("test")).write(LETTER)
    [message] = publisher.published
    assert message.subject == "test.deadletter.router"
    assert message.payload == LETTER.payload


async def test_writing_the_same_letter_again_is_harmless(publisher: FakePublisher) -> None:
    writer = DeadLetterWriter(as_publisher(publisher), Names())
    for letter in (LETTER, LETTER, replace(LETTER, sequence=42)):
        await writer.write(letter)
    first, again, replayed = (message.message_id for message in publisher.published)
    # The second letter about a message that was replayed is another letter.
    assert first == again != replayed


async def test_a_letter_that_is_not_stored_is_not_written(publisher: FakePublisher) -> None:
    publisher.refusal = lambda *_: BrokerUnavailable("gone")
    with pytest.raises(BrokerUnavailable):
        await DeadLetterWriter(as_publisher(publisher), Names()).write(LETTER)


class Box(DeadLetterBox):
    """A box whose letters are forgotten in memory."""

    def __init__(self) -> None:
        self._names = Names()
        self.forgotten: list[int] = []

    async def forget(self, sequence: int) -> None:
        self.forgotten.append(sequence)


async def test_a_replay_sends_the_original_where_it_came_from(publisher: FakePublisher) -> None:
    box = Box()
    await box.replay(StoredDeadLetter(7, 1, LETTER), as_publisher(publisher))
    [message] = publisher.published
    assert (message.subject, message.payload) == (LETTER.subject, LETTER.payload)
    assert message.message_id != LETTER.message_id
    assert box.forgotten == [7]


async def test_a_letter_is_kept_when_its_replay_fails(publisher: FakePublisher) -> None:
    publisher.refusal = lambda *_: BrokerUnavailable("gone")
    box = Box()
    with pytest.raises(BrokerUnavailable):
        await box.replay(StoredDeadLetter(7, 1, LETTER), as_publisher(publisher))
    assert box.forgotten == []


async def test_what_never_was_a_message_cannot_be_replayed(publisher: FakePublisher) -> None:
    unreadable = replace(LETTER, subject="", problem="rows outside the file")
    with pytest.raises(InvalidInput, match=r"rows outside the file.*mend its source"):
        await Box().replay(StoredDeadLetter(7, 1, unreadable), as_publisher(publisher))
    assert publisher.published == []


FROM_WHERE = {
    "router": ["icestream.events.ic86.test"],
    "scan-worker": ["icestream.scans.work.alert.s1"],
    "recorder": ["icestream.reconstructions.ic86.direction", "icestream.scans.log.s1.ended"],
    "emitter": [],
    "unheard-of": [],
}
STRANGE_SUBJECTS = (
    *(
        "$JS.API.STREAM.DELETE.EVENTS",
        "$O.icestream-pulses.M.x",
        "other.events.ic86.test",
        "icestream.events",
    ),
    *("icestream.deadletter.router", "icestream.scans.log.s1.result", "icestream.events.ic86.test x"),
    *("icestream.events.ic86.>", "icestream.events.*.test", "icestreamXevents.ic86.test"),
)
SUBJECTS = (*(subject for subjects in FROM_WHERE.values() for subject in subjects), *STRANGE_SUBJECTS)


@pytest.mark.parametrize("service", FROM_WHERE)
async def test_a_replay_goes_only_where_the_burying_service_takes_its_messages_from(
    service: str, publisher: FakePublisher
) -> None:
    box = Box()
    for subject in SUBJECTS:
        letter = replace(LETTER, service=service, subject=subject)
        if subject in FROM_WHERE[service]:
            await box.replay(StoredDeadLetter(7, 1, letter), as_publisher(publisher))
        else:
            with pytest.raises(
                InvalidInput, match=f"dead letter 8 says that it came from .* {service!r} takes"
            ):
                await box.replay(StoredDeadLetter(8, 1, letter), as_publisher(publisher))
    assert [message.subject for message in publisher.published] == FROM_WHERE[service]
    assert set(box.forgotten) <= {7}
