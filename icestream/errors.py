"""Every failure that IceStream expects, in one tree.

    IceStreamError
    |-- InvalidInput                    what came in is wrong; trying again changes nothing
    |   |-- InvalidEvent                one event breaks a rule of the event format
    |   |-- UndecodableMessage          the bytes are not a message of ours
    |   |-- MessageTooLarge             more bytes than the broker or the stream takes
    |   |-- InvalidDataset              a data set on disk breaks its format
    |   |-- InvalidRealtimeMessage      an IceCube realtime message breaks its format
    |   |-- InvalidDetector             a sensor geometry breaks its format
    |   |-- UnknownModel                no such model, or version, is being served
    |   |-- InvalidScan                 a scan cannot be as it was asked to be
    |   |   `-- UnknownReco             no reconstruction of this name is installed
    |   |-- UnknownScan                 no scan has this id
    |   |-- InvalidQuery              a question about records breaks a rule
    |   |-- InvalidRecord             a message says nothing that could be recorded
    |   |-- UnknownReconstruction     nothing of this name is recorded
    |   |-- UnknownEvent                no event of this name is stored
    |   `-- InvalidSkymap               a file or message is not a map of the sky
    |-- Misconfigured                   a setting or an installed part is wrong; fix it and start again
    |   `-- ProcessFailed               a process of the local stack does not start
    |-- Unavailable                     a dependency does not answer; it may come back
    |   |-- BrokerUnavailable           NATS
    |   |-- ModelUnavailable            Triton
    |   `-- StoreUnavailable            the recorder's database
    |-- Overloaded                      a dependency, or we ourselves, ask for a slower pace
    |   |-- StreamFull                  a JetStream stream holds as much as it may
    |   |-- ModelOverloaded             Triton's queue is full
    |   `-- TooManyRequests             this service is at its own limit
    |-- DeadlineExceeded                the caller's time is up
    |-- ModelFailed                     the model answered with an error for exactly this input
    `-- TooManyDeliveries               handed out again and again and never answered for

`retryable` says whether the same request may succeed later without a change.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


class IceStreamError(Exception):
    """A failure that IceStream expects and that callers can act upon."""

    retryable: ClassVar[bool] = False

    @property
    def reason(self) -> str:
        """A stable, lower-case name of the kind of failure, for labels and headers."""
        name = type(self).__name__
        return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


class InvalidInput(IceStreamError):
    """What came in is wrong; trying again changes nothing."""


@dataclass(frozen=True)
class Violation:
    """One rule that an event breaks."""

    field: str
    """The field as the protobuf names it, for example `pulses.charge_pe`."""
    problem: str
    """What is wrong, and what would be right."""

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}"


class InvalidEvent(InvalidInput):
    """One event breaks a rule of the event format."""

    def __init__(self, event_id: str, violations: Sequence[Violation]) -> None:
        self.event_id = event_id
        self.violations = tuple(violations)
        super().__init__(f"event {event_id} is invalid: " + "; ".join(map(str, violations)))


class UndecodableMessage(InvalidInput):
    """The bytes are not a message of ours."""


class MessageTooLarge(InvalidInput):
    """A message exceeds what the broker or the stream takes; send the payload through the object store."""

    def __init__(self, size_bytes: int, limit_bytes: int | None, *, subject: str) -> None:
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes
        self.subject = subject
        limit = "the stream's limit" if limit_bytes is None else f"the broker's {limit_bytes} bytes"
        super().__init__(f"a message of {size_bytes} bytes for {subject} exceeds {limit}")


class InvalidDataset(InvalidInput):
    """A data set on disk breaks its format."""

    def __init__(self, path: object, problem: str) -> None:
        self.path = str(path)
        self.problem = problem
        super().__init__(f"{path}: {problem}")


class InvalidRealtimeMessage(InvalidInput):
    """An IceCube realtime message breaks its format.

    Attributes:
        problem: What is wrong, and what would be right.
        source: The file, or what the caller calls the message.
        frame: Which frame, by its letter; empty where the problem is outside of the frames.
        object_key: Which object of the frame; empty where the problem is not in one.
        offset: Byte of the frame, or of the file where there is no frame; None where it is not known.
    """

    def __init__(
        self, problem: str, *, source: str, frame: str = "", object_key: str = "", offset: int | None = None
    ) -> None:
        self.problem = problem
        self.source = source
        self.frame = frame
        self.object_key = object_key
        self.offset = offset
        place = source
        if frame:
            place += f", frame {frame}"
        if object_key:
            place += f", object {object_key}"
        if offset is not None:
            place += f", byte {offset}"
        super().__init__(f"{place}: {problem}")


class InvalidDetector(InvalidInput):
    """A sensor geometry breaks its format."""


class UnknownModel(InvalidInput):
    """No such model, or version, is being served."""

    def __init__(self, model: str, available: Sequence[str]) -> None:
        self.model = model
        self.available = tuple(available)
        known = ", ".join(available) or "none"
        super().__init__(f"model {model!r} is not served here; available: {known}")


class InvalidScan(InvalidInput):
    """A scan cannot be as it was asked to be.

    Attributes:
        field: What of the request is wrong, as the protobuf names it; empty where that is not known.
    """

    def __init__(self, problem: str, *, field: str = "") -> None:
        self.field = field
        super().__init__(problem)


class UnknownReco(InvalidScan):
    """No reconstruction of this name is installed."""

    def __init__(self, reco: str, available: Sequence[str]) -> None:
        self.reco = reco
        self.available = tuple(available)
        super().__init__(
            f"there is no reco {reco!r}; available: {', '.join(available)}", field="options.reco"
        )


class InvalidQuery(InvalidInput):
    """A question about records breaks a rule.

    Attributes:
        field: What of it is wrong, as the protobuf names it.
    """

    def __init__(self, problem: str, *, field: str) -> None:
        self.field = field
        super().__init__(f"{field}: {problem}")


class InvalidRecord(InvalidInput):
    """A message decodes, but says nothing that could be recorded."""


class UnknownReconstruction(InvalidInput):
    """Nothing of this name is recorded."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"no reconstruction of {name} is recorded; look at the name, the model and its version"
        )


class UnknownScan(InvalidInput):
    """No scan has this id."""

    def __init__(self, scan_id: str) -> None:
        self.scan_id = scan_id
        super().__init__(f"there is no scan {scan_id!r}; `icestream scans list` shows those that there are")


class UnknownEvent(InvalidInput):
    """No event of this name is stored."""

    def __init__(self, name: str, stream: str) -> None:
        self.name = name
        super().__init__(f"there is no event {name!r} in stream {stream}; it may have been there long ago")


class InvalidSkymap(InvalidInput):
    """A file or message is not a map of the sky."""


class Misconfigured(IceStreamError):
    """A setting or an installed part is wrong; fix it and start again."""


class ProcessFailed(Misconfigured):
    """A process of the local stack does not start, or ended with an error."""


class Unavailable(IceStreamError):
    """A dependency does not answer; it may come back."""

    retryable = True


class BrokerUnavailable(Unavailable):
    """NATS does not answer."""


class ModelUnavailable(Unavailable):
    """Triton does not answer, or does not serve the model right now."""


class StoreUnavailable(Unavailable):
    """The recorder's database does not answer, or takes nothing right now."""


class Overloaded(IceStreamError):
    """A slower pace is asked for.

    Attributes:
        retry_after_s: A hint of when to try again.
    """

    retryable = True

    def __init__(self, message: str, *, retry_after_s: float = 0.1) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class StreamFull(Overloaded):
    """A JetStream stream holds as many bytes or messages as it may."""

    def __init__(self, stream: str, detail: str, *, retry_after_s: float = 0.5) -> None:
        self.stream = stream
        super().__init__(f"stream {stream} is full: {detail}", retry_after_s=retry_after_s)


class ModelOverloaded(Overloaded):
    """Triton's queue is full or its queue timeout expired."""


class TooManyRequests(Overloaded):
    """This service is at its own limit of concurrent requests."""


class DeadlineExceeded(IceStreamError):
    """The caller's time is up."""

    retryable = True


class ModelFailed(IceStreamError):
    """The model answered with an error for exactly this input."""


class TooManyDeliveries(IceStreamError):
    """A message was handed out again and again and never answered for: it may be what ends its workers."""

    def __init__(self, n_deliveries: int) -> None:
        self.n_deliveries = n_deliveries
        super().__init__(
            f"handed out {n_deliveries} times and never answered for; look for crashes, then replay"
        )
