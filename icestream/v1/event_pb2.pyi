from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EventKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVENT_KIND_UNSPECIFIED: _ClassVar[EventKind]
    EVENT_KIND_THROUGH_GOING_TRACK: _ClassVar[EventKind]
    EVENT_KIND_STARTING_TRACK: _ClassVar[EventKind]
    EVENT_KIND_CASCADE: _ClassVar[EventKind]
EVENT_KIND_UNSPECIFIED: EventKind
EVENT_KIND_THROUGH_GOING_TRACK: EventKind
EVENT_KIND_STARTING_TRACK: EventKind
EVENT_KIND_CASCADE: EventKind

class Event(_message.Message):
    __slots__ = ("run_id", "event_id", "sub_event", "detector", "start_unix_ns", "pulses", "pulse_reference", "truth", "alert_type", "is_real")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    SUB_EVENT_FIELD_NUMBER: _ClassVar[int]
    DETECTOR_FIELD_NUMBER: _ClassVar[int]
    START_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    PULSES_FIELD_NUMBER: _ClassVar[int]
    PULSE_REFERENCE_FIELD_NUMBER: _ClassVar[int]
    TRUTH_FIELD_NUMBER: _ClassVar[int]
    ALERT_TYPE_FIELD_NUMBER: _ClassVar[int]
    IS_REAL_FIELD_NUMBER: _ClassVar[int]
    run_id: int
    event_id: int
    sub_event: int
    detector: str
    start_unix_ns: int
    pulses: Pulses
    pulse_reference: PulseReference
    truth: Truth
    alert_type: str
    is_real: bool
    def __init__(self, run_id: _Optional[int] = ..., event_id: _Optional[int] = ..., sub_event: _Optional[int] = ..., detector: _Optional[str] = ..., start_unix_ns: _Optional[int] = ..., pulses: _Optional[_Union[Pulses, _Mapping]] = ..., pulse_reference: _Optional[_Union[PulseReference, _Mapping]] = ..., truth: _Optional[_Union[Truth, _Mapping]] = ..., alert_type: _Optional[str] = ..., is_real: _Optional[bool] = ...) -> None: ...

class Pulses(_message.Message):
    __slots__ = ("sensor_id", "time_ns", "charge_pe", "flags")
    SENSOR_ID_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    CHARGE_PE_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    sensor_id: bytes
    time_ns: bytes
    charge_pe: bytes
    flags: bytes
    def __init__(self, sensor_id: _Optional[bytes] = ..., time_ns: _Optional[bytes] = ..., charge_pe: _Optional[bytes] = ..., flags: _Optional[bytes] = ...) -> None: ...

class PulseReference(_message.Message):
    __slots__ = ("bucket", "sha256", "n_bytes")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    N_BYTES_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    sha256: str
    n_bytes: int
    def __init__(self, bucket: _Optional[str] = ..., sha256: _Optional[str] = ..., n_bytes: _Optional[int] = ...) -> None: ...

class Truth(_message.Message):
    __slots__ = ("azimuth_rad", "zenith_rad", "energy_gev", "kind")
    AZIMUTH_RAD_FIELD_NUMBER: _ClassVar[int]
    ZENITH_RAD_FIELD_NUMBER: _ClassVar[int]
    ENERGY_GEV_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    azimuth_rad: float
    zenith_rad: float
    energy_gev: float
    kind: EventKind
    def __init__(self, azimuth_rad: _Optional[float] = ..., zenith_rad: _Optional[float] = ..., energy_gev: _Optional[float] = ..., kind: _Optional[_Union[EventKind, str]] = ...) -> None: ...
