import asyncio

import pytest

from icestream.errors import InvalidInput
from icestream.runtime.jetstream.connection import Connection
from icestream.runtime.jetstream.puller import ContinuousPuller, _Inbox


@pytest.mark.parametrize(
    ("domain", "end"),
    [("", ""), ("hub.account.", ""), ("hub.account.", ".random")],
    ids=["9 tokens", "11 tokens", "12 tokens"],
)
async def test_every_form_of_the_reply_subject_is_read(domain: str, end: str) -> None:
    puller = ContinuousPuller(Connection("nats://nowhere"), stream="EVENTS", consumer="router")
    puller._loop = asyncio.get_running_loop()
    reply = f"$JS.ACK.{domain}EVENTS.router.3.41.57.1700000000000000001.9{end}"
    puller._on_message(_Inbox("inbox", n_requested=1), b"s", reply.encode(), b"", b"payload")
    (delivery,) = await puller.next_batch(1, 0.0)
    assert (delivery.n_delivered, delivery.stream_sequence, puller.n_left_in_stream) == (3, 41, 9)
    assert (delivery.published_unix_ns, delivery.headers) == (1700000000000000001, None)
    assert (puller.n_received, puller.n_redelivered, puller.in_flight) == (1, 1, 1)


async def test_an_answer_that_cannot_go_out_is_counted() -> None:
    puller = ContinuousPuller(Connection("nats://nowhere"), stream="EVENTS", consumer="router")
    puller._loop = asyncio.get_running_loop()
    reply = b"$JS.ACK.EVENTS.router.1.41.57.1700000000000000001.9"
    puller._on_message(_Inbox("inbox", n_requested=1), b"s", reply, b"", b"payload")
    (delivery,) = await puller.next_batch(1, 0.0)
    await delivery.ack()
    assert (puller.n_lost_answers, puller.in_flight) == (1, 0)


async def test_headers_are_given_only_with_the_one_that_is_asked_for() -> None:
    puller = ContinuousPuller(Connection("nats://nowhere"), stream="EVENTS", consumer="router")
    puller._loop = asyncio.get_running_loop()
    reply = b"$JS.ACK.EVENTS.router.1.41.57.1700000000000000001.9"
    blocks = (
        b"NATS/1.0\r\na: traceparent\r\nb: 2\r\n\r\n",
        b"NATS/1.0\r\na: 1\r\ntraceparent: 00\r\n\r\n",
        b"",
    )
    for block in blocks:
        puller._on_message(_Inbox("inbox", n_requested=1), b"s", reply, block, b"payload")
    found = await puller.next_batch(3, 0.0)
    assert [delivery.headers_with("traceparent") for delivery in found] == [
        None,
        {"a": "1", "traceparent": "00"},
        None,
    ]
    assert found[0].headers == {"a": "traceparent", "b": "2"}


def test_a_stream_that_cannot_be_is_refused() -> None:
    with pytest.raises(InvalidInput, match="EV ENTS"):
        ContinuousPuller(Connection("nats://nowhere"), stream="EV ENTS", consumer="router")
