from icestream.v1 import event_pb2 as _event_pb2
from icestream.v1 import reconstruction_pb2 as _reconstruction_pb2
from icestream.v1 import scan_pb2 as _scan_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetReconstructionRequest(_message.Message):
    __slots__ = ("detector", "run_id", "event_id", "sub_event", "model", "model_version")
    DETECTOR_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    SUB_EVENT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    detector: str
    run_id: int
    event_id: int
    sub_event: int
    model: str
    model_version: str
    def __init__(self, detector: _Optional[str] = ..., run_id: _Optional[int] = ..., event_id: _Optional[int] = ..., sub_event: _Optional[int] = ..., model: _Optional[str] = ..., model_version: _Optional[str] = ...) -> None: ...

class GetReconstructionResponse(_message.Message):
    __slots__ = ("reconstructions",)
    RECONSTRUCTIONS_FIELD_NUMBER: _ClassVar[int]
    reconstructions: _containers.RepeatedCompositeFieldContainer[RecordedReconstruction]
    def __init__(self, reconstructions: _Optional[_Iterable[_Union[RecordedReconstruction, _Mapping]]] = ...) -> None: ...

class RecordedReconstruction(_message.Message):
    __slots__ = ("reconstruction", "equatorial", "opening_angle_rad", "recorded_unix_ns")
    RECONSTRUCTION_FIELD_NUMBER: _ClassVar[int]
    EQUATORIAL_FIELD_NUMBER: _ClassVar[int]
    OPENING_ANGLE_RAD_FIELD_NUMBER: _ClassVar[int]
    RECORDED_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    reconstruction: _reconstruction_pb2.Reconstruction
    equatorial: _scan_pb2.Equatorial
    opening_angle_rad: float
    recorded_unix_ns: int
    def __init__(self, reconstruction: _Optional[_Union[_reconstruction_pb2.Reconstruction, _Mapping]] = ..., equatorial: _Optional[_Union[_scan_pb2.Equatorial, _Mapping]] = ..., opening_angle_rad: _Optional[float] = ..., recorded_unix_ns: _Optional[int] = ...) -> None: ...

class ReconstructionFilter(_message.Message):
    __slots__ = ("detector", "run_id", "start_unix_ns", "end_unix_ns", "cone", "model", "model_version", "max_radius90_rad", "min_kappa", "kinds")
    DETECTOR_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    START_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    END_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    CONE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    MAX_RADIUS90_RAD_FIELD_NUMBER: _ClassVar[int]
    MIN_KAPPA_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    detector: str
    run_id: int
    start_unix_ns: int
    end_unix_ns: int
    cone: Cone
    model: str
    model_version: str
    max_radius90_rad: float
    min_kappa: float
    kinds: _containers.RepeatedScalarFieldContainer[_event_pb2.EventKind]
    def __init__(self, detector: _Optional[str] = ..., run_id: _Optional[int] = ..., start_unix_ns: _Optional[int] = ..., end_unix_ns: _Optional[int] = ..., cone: _Optional[_Union[Cone, _Mapping]] = ..., model: _Optional[str] = ..., model_version: _Optional[str] = ..., max_radius90_rad: _Optional[float] = ..., min_kappa: _Optional[float] = ..., kinds: _Optional[_Iterable[_Union[_event_pb2.EventKind, str]]] = ...) -> None: ...

class Cone(_message.Message):
    __slots__ = ("centre", "radius_rad")
    CENTRE_FIELD_NUMBER: _ClassVar[int]
    RADIUS_RAD_FIELD_NUMBER: _ClassVar[int]
    centre: _scan_pb2.Equatorial
    radius_rad: float
    def __init__(self, centre: _Optional[_Union[_scan_pb2.Equatorial, _Mapping]] = ..., radius_rad: _Optional[float] = ...) -> None: ...

class ListReconstructionsRequest(_message.Message):
    __slots__ = ("filter", "page_size", "page_token")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    filter: ReconstructionFilter
    page_size: int
    page_token: str
    def __init__(self, filter: _Optional[_Union[ReconstructionFilter, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListReconstructionsResponse(_message.Message):
    __slots__ = ("reconstructions", "next_page_token")
    RECONSTRUCTIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    reconstructions: _containers.RepeatedCompositeFieldContainer[RecordedReconstruction]
    next_page_token: str
    def __init__(self, reconstructions: _Optional[_Iterable[_Union[RecordedReconstruction, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class StatsRequest(_message.Message):
    __slots__ = ("filter",)
    FILTER_FIELD_NUMBER: _ClassVar[int]
    filter: ReconstructionFilter
    def __init__(self, filter: _Optional[_Union[ReconstructionFilter, _Mapping]] = ...) -> None: ...

class StatsResponse(_message.Message):
    __slots__ = ("n_reconstructions", "recorded_per_s", "models", "dead_letters", "scans")
    N_RECONSTRUCTIONS_FIELD_NUMBER: _ClassVar[int]
    RECORDED_PER_S_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTERS_FIELD_NUMBER: _ClassVar[int]
    SCANS_FIELD_NUMBER: _ClassVar[int]
    n_reconstructions: int
    recorded_per_s: float
    models: _containers.RepeatedCompositeFieldContainer[ModelQuality]
    dead_letters: _containers.RepeatedCompositeFieldContainer[DeadLetterCount]
    scans: _containers.RepeatedCompositeFieldContainer[ScanCount]
    def __init__(self, n_reconstructions: _Optional[int] = ..., recorded_per_s: _Optional[float] = ..., models: _Optional[_Iterable[_Union[ModelQuality, _Mapping]]] = ..., dead_letters: _Optional[_Iterable[_Union[DeadLetterCount, _Mapping]]] = ..., scans: _Optional[_Iterable[_Union[ScanCount, _Mapping]]] = ...) -> None: ...

class ModelQuality(_message.Message):
    __slots__ = ("model", "model_version", "kind", "n_reconstructions", "n_with_truth", "median_opening_angle_rad")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    N_RECONSTRUCTIONS_FIELD_NUMBER: _ClassVar[int]
    N_WITH_TRUTH_FIELD_NUMBER: _ClassVar[int]
    MEDIAN_OPENING_ANGLE_RAD_FIELD_NUMBER: _ClassVar[int]
    model: str
    model_version: str
    kind: _event_pb2.EventKind
    n_reconstructions: int
    n_with_truth: int
    median_opening_angle_rad: float
    def __init__(self, model: _Optional[str] = ..., model_version: _Optional[str] = ..., kind: _Optional[_Union[_event_pb2.EventKind, str]] = ..., n_reconstructions: _Optional[int] = ..., n_with_truth: _Optional[int] = ..., median_opening_angle_rad: _Optional[float] = ...) -> None: ...

class DeadLetterCount(_message.Message):
    __slots__ = ("service", "reason", "n_letters")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    N_LETTERS_FIELD_NUMBER: _ClassVar[int]
    service: str
    reason: str
    n_letters: int
    def __init__(self, service: _Optional[str] = ..., reason: _Optional[str] = ..., n_letters: _Optional[int] = ...) -> None: ...

class ScanCount(_message.Message):
    __slots__ = ("reco", "state", "n_scans")
    RECO_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    N_SCANS_FIELD_NUMBER: _ClassVar[int]
    reco: str
    state: _scan_pb2.ScanState
    n_scans: int
    def __init__(self, reco: _Optional[str] = ..., state: _Optional[_Union[_scan_pb2.ScanState, str]] = ..., n_scans: _Optional[int] = ...) -> None: ...
