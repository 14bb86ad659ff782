import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from icestream.v1 import event_pb2 as _event_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReconstructRequest(_message.Message):
    __slots__ = ("event", "model")
    EVENT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    event: _event_pb2.Event
    model: str
    def __init__(self, event: _Optional[_Union[_event_pb2.Event, _Mapping]] = ..., model: _Optional[str] = ...) -> None: ...

class ReconstructResponse(_message.Message):
    __slots__ = ("reconstruction",)
    RECONSTRUCTION_FIELD_NUMBER: _ClassVar[int]
    reconstruction: Reconstruction
    def __init__(self, reconstruction: _Optional[_Union[Reconstruction, _Mapping]] = ...) -> None: ...

class ReconstructStreamRequest(_message.Message):
    __slots__ = ("event", "model")
    EVENT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    event: _event_pb2.Event
    model: str
    def __init__(self, event: _Optional[_Union[_event_pb2.Event, _Mapping]] = ..., model: _Optional[str] = ...) -> None: ...

class ReconstructStreamResponse(_message.Message):
    __slots__ = ("event_id", "reconstruction", "failure")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    RECONSTRUCTION_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    reconstruction: Reconstruction
    failure: Failure
    def __init__(self, event_id: _Optional[str] = ..., reconstruction: _Optional[_Union[Reconstruction, _Mapping]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("reason", "message", "violations", "retry_after")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    VIOLATIONS_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_FIELD_NUMBER: _ClassVar[int]
    reason: str
    message: str
    violations: _containers.RepeatedCompositeFieldContainer[FieldViolation]
    retry_after: _duration_pb2.Duration
    def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ..., violations: _Optional[_Iterable[_Union[FieldViolation, _Mapping]]] = ..., retry_after: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class FieldViolation(_message.Message):
    __slots__ = ("field", "description")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    field: str
    description: str
    def __init__(self, field: _Optional[str] = ..., description: _Optional[str] = ...) -> None: ...

class Reconstruction(_message.Message):
    __slots__ = ("run_id", "event_id", "sub_event", "detector", "start_unix_ns", "direction", "kappa", "radius50_rad", "radius90_rad", "model", "model_version", "n_pulses", "n_pulses_used", "timings", "trace_id", "truth")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    SUB_EVENT_FIELD_NUMBER: _ClassVar[int]
    DETECTOR_FIELD_NUMBER: _ClassVar[int]
    START_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    KAPPA_FIELD_NUMBER: _ClassVar[int]
    RADIUS50_RAD_FIELD_NUMBER: _ClassVar[int]
    RADIUS90_RAD_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    N_PULSES_FIELD_NUMBER: _ClassVar[int]
    N_PULSES_USED_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    TRUTH_FIELD_NUMBER: _ClassVar[int]
    run_id: int
    event_id: int
    sub_event: int
    detector: str
    start_unix_ns: int
    direction: Direction
    kappa: float
    radius50_rad: float
    radius90_rad: float
    model: str
    model_version: str
    n_pulses: int
    n_pulses_used: int
    timings: Timings
    trace_id: str
    truth: _event_pb2.Truth
    def __init__(self, run_id: _Optional[int] = ..., event_id: _Optional[int] = ..., sub_event: _Optional[int] = ..., detector: _Optional[str] = ..., start_unix_ns: _Optional[int] = ..., direction: _Optional[_Union[Direction, _Mapping]] = ..., kappa: _Optional[float] = ..., radius50_rad: _Optional[float] = ..., radius90_rad: _Optional[float] = ..., model: _Optional[str] = ..., model_version: _Optional[str] = ..., n_pulses: _Optional[int] = ..., n_pulses_used: _Optional[int] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., trace_id: _Optional[str] = ..., truth: _Optional[_Union[_event_pb2.Truth, _Mapping]] = ...) -> None: ...

class Direction(_message.Message):
    __slots__ = ("azimuth_rad", "zenith_rad", "x", "y", "z")
    AZIMUTH_RAD_FIELD_NUMBER: _ClassVar[int]
    ZENITH_RAD_FIELD_NUMBER: _ClassVar[int]
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    Z_FIELD_NUMBER: _ClassVar[int]
    azimuth_rad: float
    zenith_rad: float
    x: float
    y: float
    z: float
    def __init__(self, azimuth_rad: _Optional[float] = ..., zenith_rad: _Optional[float] = ..., x: _Optional[float] = ..., y: _Optional[float] = ..., z: _Optional[float] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("published_unix_ns", "received_unix_ns", "inferred_unix_ns")
    PUBLISHED_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    INFERRED_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    published_unix_ns: int
    received_unix_ns: int
    inferred_unix_ns: int
    def __init__(self, published_unix_ns: _Optional[int] = ..., received_unix_ns: _Optional[int] = ..., inferred_unix_ns: _Optional[int] = ...) -> None: ...
