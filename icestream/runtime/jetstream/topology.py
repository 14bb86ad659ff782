"""Which subjects, streams and consumers exist, and making the broker agree with that."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import structlog
from nats import errors as nats_errors
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    ExternalStream,
    RetentionPolicy,
    StorageType,
    StreamConfig,
    StreamSource,
)
from nats.js.errors import APIError, NotFoundError, ServiceUnavailableError

from icestream.errors import BrokerUnavailable, InvalidInput, Misconfigured
from icestream.runtime.jetstream.connection import Connection
from icestream.runtime.jetstream.refusals import NAME_IN_USE, refused_request
from icestream.runtime.jetstream.rights import rights_of

DEFAULT_PREFIX = "icestream"
ROUTER_CONSUMER = "router"
RECORDER_CONSUMER = "recorder"
"""On each stream that is recorded; all recorders share it."""

MIB = 1 << 20
GIB = 1 << 30
HOUR_S = 3600.0
DAY_S = 24 * HOUR_S

READY_PATIENCE_S = 30.0
_READY_POLL_S = 0.25
_REQUEST_TIMEOUT_S = 5.0

# What the guarantees rest on. How much a stream keeps is the operator's to change once it exists.
_STREAM_FIELDS = ("subjects", "retention", "storage", "discard", "allow_direct")
_CONSUMER_FIELDS = (
    "ack_policy",
    "ack_wait",
    "deliver_policy",
    "max_deliver",
    "max_ack_pending",
    "max_waiting",
    "filter_subjects",
    "backoff",
)

_NOT_READY = (ServiceUnavailableError, nats_errors.TimeoutError, nats_errors.OutboundBufferLimitError)

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Names:
    """How subjects, streams and buckets of one deployment are called.

    Two deployments with different prefixes share a server without seeing each other.
    """

    prefix: str = DEFAULT_PREFIX

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.prefix):
            raise Misconfigured(f"prefix {self.prefix!r} is not one word of letters, digits, '-' and '_'")

    @property
    def events_stream(self) -> str:
        """The stream with everything that detectors sent."""
        return self.stream("EVENTS")

    @property
    def reconstructions_stream(self) -> str:
        """The stream with every answer."""
        return self.stream("RECONSTRUCTIONS")

    @property
    def dead_letter_stream(self) -> str:
        """The stream with what nobody could work on, and why."""
        return self.stream("DEADLETTER")

    @property
    def pulses_bucket(self) -> str:
        """The object store's bucket for events too large for a message."""
        return f"{self.prefix}-pulses"

    @property
    def checkpoints_bucket(self) -> str:
        """The key-value bucket in which emitters keep how far they are."""
        return f"{self.prefix}-emitter"

    @property
    def pulses_stream(self) -> str:
        """The stream in which the object store keeps `pulses_bucket`."""
        return f"OBJ_{self.pulses_bucket}"

    def events(self, detector: str, source: str) -> str:
        """The subject that events of one detector and source go to."""
        return f"{self.prefix}.events.{subject_token(detector)}.{subject_token(source)}"

    def reconstructions(self, detector: str, model: str) -> str:
        """The subject that one model's answers for one detector go to."""
        return f"{self.prefix}.reconstructions.{subject_token(detector)}.{subject_token(model)}"

    def dead_letters(self, service: str) -> str:
        """The subject that a service's refused messages go to."""
        return f"{self.prefix}.deadletter.{subject_token(service)}"

    def heartbeats(self, service: str, instance: str) -> str:
        """The subject of one process's signs of life."""
        return f"{self.prefix}.heartbeats.{subject_token(service)}.{subject_token(instance)}"

    def everything_in(self, group: str) -> str:
        """All subjects of a group: `events`, `reconstructions`, `deadletter` or `heartbeats`."""
        return f"{self.prefix}.{group}.>"

    def stream(self, name: str) -> str:
        """What a stream is called here."""
        return name if self.prefix == DEFAULT_PREFIX else f"{self.prefix}_{name}"


@lru_cache(1024)
def subject_token(text: str) -> str:
    """One token of a subject: whatever could separate tokens, match others or break the protocol becomes `-`.

    Subjects are for routing only; the message itself holds the exact name.

    Raises:
        InvalidInput: Nothing is left of the text.
    """
    token = re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")
    if not token:
        raise InvalidInput(f"{text!r} cannot be a part of a subject: it needs a letter or a digit")
    return token


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLimits:
    """How much a stream keeps."""

    max_bytes: int
    """Reserved on the broker's disk when the stream is made."""
    max_age_s: float
    duplicate_window_s: float
    """For how long a message id is known; publishers must not retry for longer."""
    max_message_bytes: int = MIB
    n_replicas: int = 1


EVENTS_LIMITS = StreamLimits(max_bytes=4 * GIB, max_age_s=48 * HOUR_S, duplicate_window_s=120.0)
RECONSTRUCTIONS_LIMITS = StreamLimits(max_bytes=2 * GIB, max_age_s=7 * DAY_S, duplicate_window_s=600.0)
DEAD_LETTER_LIMITS = StreamLimits(
    # A letter is the original message and its reasons, so that it may exceed an event's limit.
    max_bytes=GIB,
    max_age_s=30 * DAY_S,
    duplicate_window_s=600.0,
    max_message_bytes=-1,
)


def events_stream(names: Names, limits: StreamLimits = EVENTS_LIMITS) -> StreamConfig:
    """Refuses new events when it is full: publishers wait, and nothing that was acknowledged is lost."""
    return stream_config(names.events_stream, names.everything_in("events"), DiscardPolicy.NEW, limits)


def reconstructions_stream(names: Names, limits: StreamLimits = RECONSTRUCTIONS_LIMITS) -> StreamConfig:
    """Drops the oldest when it is full: a reconstruction can be made again."""
    return stream_config(
        names.reconstructions_stream, names.everything_in("reconstructions"), DiscardPolicy.OLD, limits
    )


def dead_letter_stream(names: Names, limits: StreamLimits = DEAD_LETTER_LIMITS) -> StreamConfig:
    """Drops the oldest when it is full: bad input must not stop good input."""
    return stream_config(
        names.dead_letter_stream, names.everything_in("deadletter"), DiscardPolicy.OLD, limits
    )


def stream_config(
    name: str,
    subjects: str,
    discard: DiscardPolicy,
    limits: StreamLimits,
    *,
    retention: RetentionPolicy = RetentionPolicy.LIMITS,
) -> StreamConfig:
    """A stream as all of ours are: on disk, and readable without a consumer."""
    return StreamConfig(
        name=name,
        subjects=[subjects],
        retention=retention,
        storage=StorageType.FILE,
        discard=discard,
        max_bytes=limits.max_bytes,
        max_age=limits.max_age_s,
        max_msg_size=limits.max_message_bytes,
        duplicate_window=limits.duplicate_window_s,
        num_replicas=limits.n_replicas,
        allow_direct=True,
    )


def router_consumer(*, ack_wait_s: float = 30.0, max_ack_pending: int = 4096) -> ConsumerConfig:
    """The durable pull consumer that all routers share."""
    return shared_consumer(ROUTER_CONSUMER, ack_wait_s=ack_wait_s, max_ack_pending=max_ack_pending)


def shared_consumer(
    name: str, *, subjects: Sequence[str] = (), ack_wait_s: float = 30.0, max_ack_pending: int = 4096
) -> ConsumerConfig:
    """A durable pull consumer that all processes of one kind share.

    The broker never gives up on a message by itself: what ran out of deliveries would be stranded in the
    stream, so the service counts deliveries and writes the dead letter.

    Args:
        name: Of the consumer.
        subjects: Those of the stream's that it is for; all by default.
        ack_wait_s: After so long without an answer somebody else gets the message.
        max_ack_pending: Messages handed out at a time, to all processes together.
    """
    return ConsumerConfig(
        name=name,
        durable_name=name,
        ack_policy=AckPolicy.EXPLICIT,
        deliver_policy=DeliverPolicy.ALL,
        ack_wait=ack_wait_s,
        max_deliver=-1,
        max_ack_pending=max_ack_pending,
        max_waiting=512,
        filter_subjects=list(subjects) or None,
        # No backoff: its first entry would silently replace ack_wait.
        backoff=None,
    )


@dataclass(frozen=True, slots=True)
class Drift:
    """A setting that the broker had otherwise than we declare it."""

    object_name: str
    field: str
    was: object
    now: object


async def reconcile_stream(
    connection: Connection, wanted: StreamConfig, *, patience_s: float = READY_PATIENCE_S
) -> tuple[Drift, ...]:
    """Create the stream, or correct in it what our guarantees rest on.

    The limits (bytes, age, message size, duplicate window, replicas) of a stream that exists stay as they are:
    they are its operator's. Who has no right to make the stream waits for whoever has; who has none to change
    it only says in the log what is otherwise.

    Returns:
        What was otherwise; nothing for a new stream.

    Raises:
        BrokerUnavailable: JetStream is not ready, or nobody makes the stream, within `patience_s`.
        Misconfigured: The broker does not take the settings, or cannot change one that drifted.
    """
    js = connection.client.jetstream(timeout=_REQUEST_TIMEOUT_S)
    assert wanted.name is not None
    name = wanted.name

    async def reconcile() -> tuple[Drift, ...]:
        try:
            actual = (await js.stream_info(name)).config
        except NotFoundError as error:
            if not (await rights_of(connection)).may_create_stream(name):
                raise _NotOursToMakeError from error
            await _unless_just_made(js.add_stream(wanted))
            actual = (await js.stream_info(name)).config
        drifts = _drifts(f"stream {name}", _STREAM_FIELDS, was=actual, now=wanted)
        if drifts and (await rights_of(connection)).may_update_stream(name):
            await js.update_stream(actual.evolve(**{drift.field: drift.now for drift in drifts}))
        return drifts

    return _logged(await _once_ready(reconcile, what=f"stream {name}", patience_s=patience_s))


async def wait_for_stream(connection: Connection, name: str, *, patience_s: float = READY_PATIENCE_S) -> None:
    """Wait until another service has made a stream, a bucket's among them.

    Raises:
        BrokerUnavailable: JetStream is not ready, or nobody makes the stream, within `patience_s`.
        Misconfigured: The broker does not show it to us.
    """
    js = connection.client.jetstream(timeout=_REQUEST_TIMEOUT_S)

    async def look() -> None:
        try:
            await js.stream_info(name)
        except NotFoundError as error:
            raise _NotOursToMakeError from error

    await _once_ready(look, what=f"stream {name}", patience_s=patience_s)


async def reconcile_source(
    connection: Connection, stream: str, domain: str, *, patience_s: float = READY_PATIENCE_S
) -> tuple[Drift, ...]:
    """Let a stream also take everything from the stream of its name in another JetStream domain.

    It begins with what the other one holds, goes on by itself after every outage, and keeps headers and
    subjects; sequence numbers and times are those of its own storing. Other sources and the stream's own
    subjects stay, and nothing here ever takes a source away.

    Returns:
        What was otherwise; nothing where it takes from there already.

    Raises:
        BrokerUnavailable: JetStream is not ready within `patience_s`.
        Misconfigured: There is no such stream here, or the broker refuses the source.
    """
    js = connection.client.jetstream(timeout=_REQUEST_TIMEOUT_S)
    source = StreamSource(name=stream, external=ExternalStream(api=source_api(domain)))

    async def reconcile() -> tuple[Drift, ...]:
        config = (await js.stream_info(stream)).config
        sources = config.sources or []
        if any(_origin(one) == _origin(source) for one in sources):
            return ()
        await js.update_stream(config.evolve(sources=[*sources, source]))
        before = [_origin(one) for one in sources]
        return (Drift(f"stream {stream}", "sources", was=before, now=[*before, _origin(source)]),)

    return _logged(await _once_ready(reconcile, what=f"stream {stream}", patience_s=patience_s))


def source_api(domain: str) -> str:
    """Where JetStream of another domain takes requests."""
    return f"$JS.{domain}.API"


def _origin(source: StreamSource) -> str:
    """Where a source takes from, in one word."""
    return f"{source.external.api if source.external else '$JS.API'} {source.name}"


async def reconcile_consumer(
    connection: Connection, stream: str, wanted: ConsumerConfig, *, patience_s: float = READY_PATIENCE_S
) -> tuple[Drift, ...]:
    """Create the durable consumer, or bring it to what is wanted; see `reconcile_stream`."""
    js = connection.client.jetstream(timeout=_REQUEST_TIMEOUT_S)
    assert wanted.name is not None
    name = wanted.name

    async def reconcile() -> tuple[Drift, ...]:
        try:
            actual = (await js.consumer_info(stream, name)).config
        except NotFoundError:
            await _unless_just_made(js.add_consumer(stream, wanted))
            actual = (await js.consumer_info(stream, name)).config
        drifts = _drifts(f"consumer {stream}/{name}", _CONSUMER_FIELDS, was=actual, now=wanted)
        if drifts:
            await js.add_consumer(stream, actual.evolve(**{drift.field: drift.now for drift in drifts}))
        return drifts

    return _logged(await _once_ready(reconcile, what=f"consumer {stream}/{name}", patience_s=patience_s))


def _drifts(object_name: str, fields: tuple[str, ...], *, was: object, now: object) -> tuple[Drift, ...]:
    pairs = ((field, _plain(getattr(was, field)), _plain(getattr(now, field))) for field in fields)
    return tuple(Drift(object_name, field, old, new) for field, old, new in pairs if old != new)


def _plain(value: Any) -> Any:
    """The value without the ways in which the broker and the client library write the same thing."""
    if isinstance(value, str):
        return str.__str__(value)
    return value or None


def _logged(drifts: tuple[Drift, ...]) -> tuple[Drift, ...]:
    for drift in drifts:
        _log.warning(
            "broker_settings_drifted",
            object=drift.object_name,
            field=drift.field,
            was=drift.was,
            now=drift.now,
        )
    return drifts


async def _unless_just_made(creation: Awaitable[object]) -> None:
    """Create, or find that another process did so in between with other settings."""
    try:
        await creation
    except APIError as error:
        if error.err_code != NAME_IN_USE:
            raise


class _NotOursToMakeError(Exception):
    """A stream is missing that this user may not make."""


async def _once_ready(call: Callable[[], Awaitable[_T]], *, what: str, patience_s: float) -> _T:
    """Call, and call again while JetStream starts or elects a leader, or another service makes its streams."""
    loop = asyncio.get_running_loop()
    give_up_at_s = loop.time() + patience_s
    is_waiting = False
    while True:
        try:
            return await call()
        except _NOT_READY as error:
            if loop.time() >= give_up_at_s:
                raise BrokerUnavailable(
                    f"JetStream gave no answer for {what} in {patience_s:g} s; is it on (`nats-server -js`)?"
                ) from error
        except _NotOursToMakeError as error:
            if loop.time() >= give_up_at_s:
                raise BrokerUnavailable(
                    f"there is no {what}, and this user may not make it; start the service that does: the router "
                    "for events, reconstructions and dead letters, the scanner for scans"
                ) from error
            if not is_waiting:
                _log.info("waiting_for_another_service", to_make=what)
            is_waiting = True
        except APIError as error:
            raise refused_request(error, what=what) from error
        except nats_errors.ConnectionClosedError as error:
            raise BrokerUnavailable(f"the connection closed before {what} was ready") from error
        await asyncio.sleep(_READY_POLL_S)
