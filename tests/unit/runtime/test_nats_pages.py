"""Whose word counts where several servers speak of the same stream."""

from typing import Any

import pytest

from icestream.runtime.nats_pages import Page, consumers_led_by, latest_leaders, streams_led_by


def jsz(cluster: Page | None, *, pending: int = 0) -> Page:
    """A page with one stream and its consumer, in the hands of the same leader."""
    led = {} if cluster is None else {"cluster": cluster}
    consumer: dict[str, Any] = {
        "name": "router",
        "config": {"durable_name": "router"},
        "num_pending": pending,
        "num_ack_pending": 0,
        "num_redelivered": 0,
        "ack_floor": {"stream_seq": 0},
        **led,
    }
    stream = {
        "name": "EVENTS",
        "config": {"max_bytes": -1, "max_age": 0, "discard": "new"},
        "state": {"messages": 0, "bytes": 0, "last_seq": 0},
        "consumer_detail": [consumer],
        **led,
    }
    return {"account_details": [{"stream_detail": [stream]}]}


@pytest.mark.parametrize(
    ("cluster", "n_rows"),
    [
        (None, 1),
        ({"leader": "a"}, 1),
        ({"leader": "b"}, 0),
        # While a leader is elected.
        ({"name": "icestream", "replicas": []}, 0),
    ],
)
def test_only_the_leaders_word_counts(cluster: Page | None, n_rows: int) -> None:
    assert len(streams_led_by("a", jsz(cluster))) == n_rows
    assert len(consumers_led_by("a", jsz(cluster))) == n_rows


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_that_believe_to_lead_the_later_one_counts(order: int) -> None:
    # The fractions of a second would compare wrongly as texts.
    old = jsz({"leader": "a", "leader_since": "2026-11-22T04:56:59.4Z"}, pending=1)
    new = jsz({"leader": "b", "leader_since": "2026-11-22T04:56:59.41Z"}, pending=2)
    both = [*consumers_led_by("a", old), *consumers_led_by("b", new)][::order]
    [consumer] = latest_leaders(both)
    assert consumer.pending == 2


def test_consumers_of_one_name_at_two_streams_are_two() -> None:
    [one] = consumers_led_by("a", jsz(None))
    page = jsz(None)
    page["account_details"][0]["stream_detail"][0]["name"] = "SCANS"
    assert len(latest_leaders([one, *consumers_led_by("a", page)])) == 2
