"""What the broker lets us do, by its own word: so that nobody tries what is forbidden, which would raise an alarm."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from nats import errors as nats_errors

from icestream.runtime.jetstream.connection import Connection

_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Rights:
    """What a user may publish, requests to JetStream among it."""

    allowed: tuple[str, ...] = (">",)
    denied: tuple[str, ...] = ()

    def may_publish(self, subject: str) -> bool:
        """Whether a message to this subject, which has no wildcards, would be taken."""
        return _matches(self.allowed, subject) and not _matches(self.denied, subject)

    def may_create_stream(self, stream: str) -> bool:
        """Whether we may make it where it is missing."""
        return self.may_publish(f"$JS.API.STREAM.CREATE.{stream}")

    def may_update_stream(self, stream: str) -> bool:
        """Whether we may change its settings."""
        return self.may_publish(f"$JS.API.STREAM.UPDATE.{stream}")

    def may_purge_stream(self, stream: str) -> bool:
        """Whether we may throw away what it holds."""
        return self.may_publish(f"$JS.API.STREAM.PURGE.{stream}")

    def may_read(self, stream: str) -> bool:
        """Whether we may make a consumer for ourselves and so see what the stream holds."""
        return self.may_publish(f"$JS.API.CONSUMER.CREATE.{stream}")

    def may_see_newest(self, stream: str, subject: str) -> bool:
        """Whether we may ask for the newest message of one subject."""
        return self.may_publish(f"$JS.API.DIRECT.GET.{stream}.{subject}")


async def rights_of(connection: Connection) -> Rights:
    """Ask the broker; where it does not say, everything counts as allowed."""
    try:
        answer = await connection.client.request("$SYS.REQ.USER.INFO", b"", timeout=_TIMEOUT_S)
    except nats_errors.Error:
        # A server before 2.10, or one that forbids the question.
        return Rights()
    return _rights(json.loads(answer.data))


def _rights(answer: Mapping[str, Any]) -> Rights:
    permissions = (answer.get("data") or {}).get("permissions") or {}
    publish = permissions.get("publish") or {}
    # No list of what is allowed allows everything that is not denied.
    return Rights(tuple(publish.get("allow") or (">",)), tuple(publish.get("deny") or ()))


def _matches(patterns: tuple[str, ...], subject: str) -> bool:
    return any(_match(pattern, subject) for pattern in patterns)


def _match(pattern: str, subject: str) -> bool:
    for wanted, token in zip_longest(pattern.split("."), subject.split(".")):
        if wanted == ">":
            return token is not None
        if wanted != token and (wanted != "*" or token is None):
            return False
    return True
