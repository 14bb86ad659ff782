"""Subjects are matched as the server does it; what the server says is tested with the server."""

import pytest

from icestream.runtime.jetstream.rights import Rights


@pytest.mark.parametrize(
    ("pattern", "subject"),
    [
        ("a.b", "a.b"),
        ("a.*", "a.b"),
        ("*.b", "a.b"),
        ("a.>", "a.b"),
        ("a.>", "a.b.c"),
        (">", "a"),
    ],
)
def test_what_a_pattern_covers_is_allowed(pattern: str, subject: str) -> None:
    assert Rights((pattern,)).may_publish(subject)
    assert not Rights(denied=(pattern,)).may_publish(subject)


@pytest.mark.parametrize(
    ("pattern", "subject"),
    [
        ("a.b", "a"),
        ("a.b", "a.b.c"),
        ("a.b", "a.c"),
        ("a.*", "a"),
        ("a.*", "a.b.c"),
        ("a.>", "a"),
        ("a.>", "b.c"),
    ],
)
def test_what_a_pattern_does_not_cover_is_forbidden(pattern: str, subject: str) -> None:
    assert not Rights((pattern,)).may_publish(subject)
    assert Rights(denied=(pattern,)).may_publish(subject)


def test_one_pattern_is_enough_and_a_denial_wins() -> None:
    rights = Rights(("events.*", "heartbeats.>"), ("events.forged",))
    assert rights.may_publish("events.ic86")
    assert rights.may_publish("heartbeats.emitter.a")
    assert not rights.may_publish("events.forged")
