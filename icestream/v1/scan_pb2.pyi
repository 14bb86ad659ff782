from icestream.v1 import event_pb2 as _event_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ScanState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SCAN_STATE_UNSPECIFIED: _ClassVar[ScanState]
    SCAN_STATE_QUEUED: _ClassVar[ScanState]
    SCAN_STATE_RUNNING: _ClassVar[ScanState]
    SCAN_STATE_COMPLETE: _ClassVar[ScanState]
    SCAN_STATE_INCOMPLETE: _ClassVar[ScanState]
    SCAN_STATE_CANCELLED: _ClassVar[ScanState]
SCAN_STATE_UNSPECIFIED: ScanState
SCAN_STATE_QUEUED: ScanState
SCAN_STATE_RUNNING: ScanState
SCAN_STATE_COMPLETE: ScanState
SCAN_STATE_INCOMPLETE: ScanState
SCAN_STATE_CANCELLED: ScanState

class StartScanRequest(_message.Message):
    __slots__ = ("event", "event_name", "options", "request_id")
    EVENT_FIELD_NUMBER: _ClassVar[int]
    EVENT_NAME_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    event: _event_pb2.Event
    event_name: str
    options: ScanOptions
    request_id: str
    def __init__(self, event: _Optional[_Union[_event_pb2.Event, _Mapping]] = ..., event_name: _Optional[str] = ..., options: _Optional[_Union[ScanOptions, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class ScanOptions(_message.Message):
    __slots__ = ("reco", "progression", "predictive_threshold", "pointing", "priority", "classifiers", "position_variations")
    class ClassifiersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    RECO_FIELD_NUMBER: _ClassVar[int]
    PROGRESSION_FIELD_NUMBER: _ClassVar[int]
    PREDICTIVE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    POINTING_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    CLASSIFIERS_FIELD_NUMBER: _ClassVar[int]
    POSITION_VARIATIONS_FIELD_NUMBER: _ClassVar[int]
    reco: str
    progression: _containers.RepeatedCompositeFieldContainer[ScanLevel]
    predictive_threshold: float
    pointing: Pointing
    priority: int
    classifiers: _containers.ScalarMap[str, str]
    position_variations: _containers.RepeatedCompositeFieldContainer[Position]
    def __init__(self, reco: _Optional[str] = ..., progression: _Optional[_Iterable[_Union[ScanLevel, _Mapping]]] = ..., predictive_threshold: _Optional[float] = ..., pointing: _Optional[_Union[Pointing, _Mapping]] = ..., priority: _Optional[int] = ..., classifiers: _Optional[_Mapping[str, str]] = ..., position_variations: _Optional[_Iterable[_Union[Position, _Mapping]]] = ...) -> None: ...

class ScanLevel(_message.Message):
    __slots__ = ("nside", "extension")
    NSIDE_FIELD_NUMBER: _ClassVar[int]
    EXTENSION_FIELD_NUMBER: _ClassVar[int]
    nside: int
    extension: int
    def __init__(self, nside: _Optional[int] = ..., extension: _Optional[int] = ...) -> None: ...

class Pointing(_message.Message):
    __slots__ = ("equatorial", "horizontal", "radius_rad")
    EQUATORIAL_FIELD_NUMBER: _ClassVar[int]
    HORIZONTAL_FIELD_NUMBER: _ClassVar[int]
    RADIUS_RAD_FIELD_NUMBER: _ClassVar[int]
    equatorial: Equatorial
    horizontal: Horizontal
    radius_rad: float
    def __init__(self, equatorial: _Optional[_Union[Equatorial, _Mapping]] = ..., horizontal: _Optional[_Union[Horizontal, _Mapping]] = ..., radius_rad: _Optional[float] = ...) -> None: ...

class Equatorial(_message.Message):
    __slots__ = ("ra_rad", "dec_rad")
    RA_RAD_FIELD_NUMBER: _ClassVar[int]
    DEC_RAD_FIELD_NUMBER: _ClassVar[int]
    ra_rad: float
    dec_rad: float
    def __init__(self, ra_rad: _Optional[float] = ..., dec_rad: _Optional[float] = ...) -> None: ...

class Horizontal(_message.Message):
    __slots__ = ("azimuth_rad", "zenith_rad")
    AZIMUTH_RAD_FIELD_NUMBER: _ClassVar[int]
    ZENITH_RAD_FIELD_NUMBER: _ClassVar[int]
    azimuth_rad: float
    zenith_rad: float
    def __init__(self, azimuth_rad: _Optional[float] = ..., zenith_rad: _Optional[float] = ...) -> None: ...

class Position(_message.Message):
    __slots__ = ("x_m", "y_m", "z_m")
    X_M_FIELD_NUMBER: _ClassVar[int]
    Y_M_FIELD_NUMBER: _ClassVar[int]
    Z_M_FIELD_NUMBER: _ClassVar[int]
    x_m: float
    y_m: float
    z_m: float
    def __init__(self, x_m: _Optional[float] = ..., y_m: _Optional[float] = ..., z_m: _Optional[float] = ...) -> None: ...

class StartScanResponse(_message.Message):
    __slots__ = ("scan", "is_new")
    SCAN_FIELD_NUMBER: _ClassVar[int]
    IS_NEW_FIELD_NUMBER: _ClassVar[int]
    scan: Scan
    is_new: bool
    def __init__(self, scan: _Optional[_Union[Scan, _Mapping]] = ..., is_new: _Optional[bool] = ...) -> None: ...

class GetScanRequest(_message.Message):
    __slots__ = ("scan_id",)
    SCAN_ID_FIELD_NUMBER: _ClassVar[int]
    scan_id: str
    def __init__(self, scan_id: _Optional[str] = ...) -> None: ...

class GetScanResponse(_message.Message):
    __slots__ = ("scan",)
    SCAN_FIELD_NUMBER: _ClassVar[int]
    scan: Scan
    def __init__(self, scan: _Optional[_Union[Scan, _Mapping]] = ...) -> None: ...

class ListScansRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "states", "classifiers", "event_id")
    class ClassifiersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    CLASSIFIERS_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    states: _containers.RepeatedScalarFieldContainer[ScanState]
    classifiers: _containers.ScalarMap[str, str]
    event_id: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., states: _Optional[_Iterable[_Union[ScanState, str]]] = ..., classifiers: _Optional[_Mapping[str, str]] = ..., event_id: _Optional[str] = ...) -> None: ...

class ListScansResponse(_message.Message):
    __slots__ = ("scans", "next_page_token")
    SCANS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    scans: _containers.RepeatedCompositeFieldContainer[Scan]
    next_page_token: str
    def __init__(self, scans: _Optional[_Iterable[_Union[Scan, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class WatchScanRequest(_message.Message):
    __slots__ = ("scan_id", "after_revision", "with_skymap")
    SCAN_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_REVISION_FIELD_NUMBER: _ClassVar[int]
    WITH_SKYMAP_FIELD_NUMBER: _ClassVar[int]
    scan_id: str
    after_revision: int
    with_skymap: bool
    def __init__(self, scan_id: _Optional[str] = ..., after_revision: _Optional[int] = ..., with_skymap: _Optional[bool] = ...) -> None: ...

class WatchScanResponse(_message.Message):
    __slots__ = ("scan", "skymap")
    SCAN_FIELD_NUMBER: _ClassVar[int]
    SKYMAP_FIELD_NUMBER: _ClassVar[int]
    scan: Scan
    skymap: Skymap
    def __init__(self, scan: _Optional[_Union[Scan, _Mapping]] = ..., skymap: _Optional[_Union[Skymap, _Mapping]] = ...) -> None: ...

class GetSkymapRequest(_message.Message):
    __slots__ = ("scan_id",)
    SCAN_ID_FIELD_NUMBER: _ClassVar[int]
    scan_id: str
    def __init__(self, scan_id: _Optional[str] = ...) -> None: ...

class GetSkymapResponse(_message.Message):
    __slots__ = ("skymap",)
    SKYMAP_FIELD_NUMBER: _ClassVar[int]
    skymap: Skymap
    def __init__(self, skymap: _Optional[_Union[Skymap, _Mapping]] = ...) -> None: ...

class CancelScanRequest(_message.Message):
    __slots__ = ("scan_id",)
    SCAN_ID_FIELD_NUMBER: _ClassVar[int]
    scan_id: str
    def __init__(self, scan_id: _Optional[str] = ...) -> None: ...

class CancelScanResponse(_message.Message):
    __slots__ = ("scan",)
    SCAN_FIELD_NUMBER: _ClassVar[int]
    scan: Scan
    def __init__(self, scan: _Optional[_Union[Scan, _Mapping]] = ...) -> None: ...

class Scan(_message.Message):
    __slots__ = ("scan_id", "run_id", "event_id", "sub_event", "detector", "start_unix_ns", "options", "state", "created_unix_ns", "ended_unix_ns", "progress", "best", "revision", "trace_id")
    SCAN_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    SUB_EVENT_FIELD_NUMBER: _ClassVar[int]
    DETECTOR_FIELD_NUMBER: _ClassVar[int]
    START_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CREATED_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    ENDED_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    BEST_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    scan_id: str
    run_id: int
    event_id: int
    sub_event: int
    detector: str
    start_unix_ns: int
    options: ScanOptions
    state: ScanState
    created_unix_ns: int
    ended_unix_ns: int
    progress: ScanProgress
    best: BestFit
    revision: int
    trace_id: str
    def __init__(self, scan_id: _Optional[str] = ..., run_id: _Optional[int] = ..., event_id: _Optional[int] = ..., sub_event: _Optional[int] = ..., detector: _Optional[str] = ..., start_unix_ns: _Optional[int] = ..., options: _Optional[_Union[ScanOptions, _Mapping]] = ..., state: _Optional[_Union[ScanState, str]] = ..., created_unix_ns: _Optional[int] = ..., ended_unix_ns: _Optional[int] = ..., progress: _Optional[_Union[ScanProgress, _Mapping]] = ..., best: _Optional[_Union[BestFit, _Mapping]] = ..., revision: _Optional[int] = ..., trace_id: _Optional[str] = ...) -> None: ...

class ScanProgress(_message.Message):
    __slots__ = ("levels", "n_fits_sent", "n_fits_done", "n_pixels_missing", "fits_per_s", "eta_s", "elapsed_s", "n_unknown", "n_duplicates", "n_late", "worker_s")
    LEVELS_FIELD_NUMBER: _ClassVar[int]
    N_FITS_SENT_FIELD_NUMBER: _ClassVar[int]
    N_FITS_DONE_FIELD_NUMBER: _ClassVar[int]
    N_PIXELS_MISSING_FIELD_NUMBER: _ClassVar[int]
    FITS_PER_S_FIELD_NUMBER: _ClassVar[int]
    ETA_S_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_S_FIELD_NUMBER: _ClassVar[int]
    N_UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    N_DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    N_LATE_FIELD_NUMBER: _ClassVar[int]
    WORKER_S_FIELD_NUMBER: _ClassVar[int]
    levels: _containers.RepeatedCompositeFieldContainer[LevelProgress]
    n_fits_sent: int
    n_fits_done: int
    n_pixels_missing: int
    fits_per_s: float
    eta_s: float
    elapsed_s: float
    n_unknown: int
    n_duplicates: int
    n_late: int
    worker_s: float
    def __init__(self, levels: _Optional[_Iterable[_Union[LevelProgress, _Mapping]]] = ..., n_fits_sent: _Optional[int] = ..., n_fits_done: _Optional[int] = ..., n_pixels_missing: _Optional[int] = ..., fits_per_s: _Optional[float] = ..., eta_s: _Optional[float] = ..., elapsed_s: _Optional[float] = ..., n_unknown: _Optional[int] = ..., n_duplicates: _Optional[int] = ..., n_late: _Optional[int] = ..., worker_s: _Optional[float] = ...) -> None: ...

class LevelProgress(_message.Message):
    __slots__ = ("nside", "n_pixels_planned", "n_pixels_done", "n_pixels_expected", "mean_fit_s", "fastest_fit_s", "slowest_fit_s")
    NSIDE_FIELD_NUMBER: _ClassVar[int]
    N_PIXELS_PLANNED_FIELD_NUMBER: _ClassVar[int]
    N_PIXELS_DONE_FIELD_NUMBER: _ClassVar[int]
    N_PIXELS_EXPECTED_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIT_S_FIELD_NUMBER: _ClassVar[int]
    FASTEST_FIT_S_FIELD_NUMBER: _ClassVar[int]
    SLOWEST_FIT_S_FIELD_NUMBER: _ClassVar[int]
    nside: int
    n_pixels_planned: int
    n_pixels_done: int
    n_pixels_expected: int
    mean_fit_s: float
    fastest_fit_s: float
    slowest_fit_s: float
    def __init__(self, nside: _Optional[int] = ..., n_pixels_planned: _Optional[int] = ..., n_pixels_done: _Optional[int] = ..., n_pixels_expected: _Optional[int] = ..., mean_fit_s: _Optional[float] = ..., fastest_fit_s: _Optional[float] = ..., slowest_fit_s: _Optional[float] = ...) -> None: ...

class BestFit(_message.Message):
    __slots__ = ("horizontal", "equatorial", "llh", "nside", "pixel", "hypothesis", "evidence")
    HORIZONTAL_FIELD_NUMBER: _ClassVar[int]
    EQUATORIAL_FIELD_NUMBER: _ClassVar[int]
    LLH_FIELD_NUMBER: _ClassVar[int]
    NSIDE_FIELD_NUMBER: _ClassVar[int]
    PIXEL_FIELD_NUMBER: _ClassVar[int]
    HYPOTHESIS_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    horizontal: Horizontal
    equatorial: Equatorial
    llh: float
    nside: int
    pixel: int
    hypothesis: str
    evidence: float
    def __init__(self, horizontal: _Optional[_Union[Horizontal, _Mapping]] = ..., equatorial: _Optional[_Union[Equatorial, _Mapping]] = ..., llh: _Optional[float] = ..., nside: _Optional[int] = ..., pixel: _Optional[int] = ..., hypothesis: _Optional[str] = ..., evidence: _Optional[float] = ...) -> None: ...

class Skymap(_message.Message):
    __slots__ = ("scan", "is_equatorial", "hypotheses", "levels", "is_complete", "levels_compare", "notes", "event_type", "is_real_event")
    class NotesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SCAN_FIELD_NUMBER: _ClassVar[int]
    IS_EQUATORIAL_FIELD_NUMBER: _ClassVar[int]
    HYPOTHESES_FIELD_NUMBER: _ClassVar[int]
    LEVELS_FIELD_NUMBER: _ClassVar[int]
    IS_COMPLETE_FIELD_NUMBER: _ClassVar[int]
    LEVELS_COMPARE_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    EVENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    IS_REAL_EVENT_FIELD_NUMBER: _ClassVar[int]
    scan: Scan
    is_equatorial: bool
    hypotheses: _containers.RepeatedScalarFieldContainer[str]
    levels: _containers.RepeatedCompositeFieldContainer[SkymapLevel]
    is_complete: bool
    levels_compare: bool
    notes: _containers.ScalarMap[str, str]
    event_type: str
    is_real_event: bool
    def __init__(self, scan: _Optional[_Union[Scan, _Mapping]] = ..., is_equatorial: _Optional[bool] = ..., hypotheses: _Optional[_Iterable[str]] = ..., levels: _Optional[_Iterable[_Union[SkymapLevel, _Mapping]]] = ..., is_complete: _Optional[bool] = ..., levels_compare: _Optional[bool] = ..., notes: _Optional[_Mapping[str, str]] = ..., event_type: _Optional[str] = ..., is_real_event: _Optional[bool] = ...) -> None: ...

class SkymapLevel(_message.Message):
    __slots__ = ("nside", "pixel", "llh", "position_m", "time_ns", "n_hits", "hypothesis", "rival_llh", "energy_inside_gev", "energy_total_gev", "is_complete", "missing")
    NSIDE_FIELD_NUMBER: _ClassVar[int]
    PIXEL_FIELD_NUMBER: _ClassVar[int]
    LLH_FIELD_NUMBER: _ClassVar[int]
    POSITION_M_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    N_HITS_FIELD_NUMBER: _ClassVar[int]
    HYPOTHESIS_FIELD_NUMBER: _ClassVar[int]
    RIVAL_LLH_FIELD_NUMBER: _ClassVar[int]
    ENERGY_INSIDE_GEV_FIELD_NUMBER: _ClassVar[int]
    ENERGY_TOTAL_GEV_FIELD_NUMBER: _ClassVar[int]
    IS_COMPLETE_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    nside: int
    pixel: bytes
    llh: bytes
    position_m: bytes
    time_ns: bytes
    n_hits: bytes
    hypothesis: bytes
    rival_llh: bytes
    energy_inside_gev: bytes
    energy_total_gev: bytes
    is_complete: bool
    missing: bytes
    def __init__(self, nside: _Optional[int] = ..., pixel: _Optional[bytes] = ..., llh: _Optional[bytes] = ..., position_m: _Optional[bytes] = ..., time_ns: _Optional[bytes] = ..., n_hits: _Optional[bytes] = ..., hypothesis: _Optional[bytes] = ..., rival_llh: _Optional[bytes] = ..., energy_inside_gev: _Optional[bytes] = ..., energy_total_gev: _Optional[bytes] = ..., is_complete: _Optional[bool] = ..., missing: _Optional[bytes] = ...) -> None: ...

class ScanAccepted(_message.Message):
    __slots__ = ("scan_id", "event", "n_pulses", "options", "is_equatorial", "seed_position", "seed_time_ns", "offsets", "rotates_offsets", "adds_fallback_seed", "levels_compare", "batch_size", "created_unix_ns", "startup_sha256")
    SCAN_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    N_PULSES_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    IS_EQUATORIAL_FIELD_NUMBER: _ClassVar[int]
    SEED_POSITION_FIELD_NUMBER: _ClassVar[int]
    SEED_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    OFFSETS_FIELD_NUMBER: _ClassVar[int]
    ROTATES_OFFSETS_FIELD_NUMBER: _ClassVar[int]
    ADDS_FALLBACK_SEED_FIELD_NUMBER: _ClassVar[int]
    LEVELS_COMPARE_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    CREATED_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    STARTUP_SHA256_FIELD_NUMBER: _ClassVar[int]
    scan_id: str
    event: _event_pb2.Event
    n_pulses: int
    options: ScanOptions
    is_equatorial: bool
    seed_position: Position
    seed_time_ns: float
    offsets: _containers.RepeatedCompositeFieldContainer[Position]
    rotates_offsets: bool
    adds_fallback_seed: bool
    levels_compare: bool
    batch_size: int
    created_unix_ns: int
    startup_sha256: str
    def __init__(self, scan_id: _Optional[str] = ..., event: _Optional[_Union[_event_pb2.Event, _Mapping]] = ..., n_pulses: _Optional[int] = ..., options: _Optional[_Union[ScanOptions, _Mapping]] = ..., is_equatorial: _Optional[bool] = ..., seed_position: _Optional[_Union[Position, _Mapping]] = ..., seed_time_ns: _Optional[float] = ..., offsets: _Optional[_Iterable[_Union[Position, _Mapping]]] = ..., rotates_offsets: _Optional[bool] = ..., adds_fallback_seed: _Optional[bool] = ..., levels_compare: _Optional[bool] = ..., batch_size: _Optional[int] = ..., created_unix_ns: _Optional[int] = ..., startup_sha256: _Optional[str] = ...) -> None: ...

class ScanStartup(_message.Message):
    __slots__ = ("event", "detector", "positions_m", "efficiency")
    EVENT_FIELD_NUMBER: _ClassVar[int]
    DETECTOR_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_M_FIELD_NUMBER: _ClassVar[int]
    EFFICIENCY_FIELD_NUMBER: _ClassVar[int]
    event: _event_pb2.Event
    detector: str
    positions_m: bytes
    efficiency: bytes
    def __init__(self, event: _Optional[_Union[_event_pb2.Event, _Mapping]] = ..., detector: _Optional[str] = ..., positions_m: _Optional[bytes] = ..., efficiency: _Optional[bytes] = ...) -> None: ...

class PixelWork(_message.Message):
    __slots__ = ("scan_id", "number", "part", "first_row", "reco", "startup_sha256", "nside", "pixel", "variation", "direction", "seeds", "n_seeds")
    SCAN_ID_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    FIRST_ROW_FIELD_NUMBER: _ClassVar[int]
    RECO_FIELD_NUMBER: _ClassVar[int]
    STARTUP_SHA256_FIELD_NUMBER: _ClassVar[int]
    NSIDE_FIELD_NUMBER: _ClassVar[int]
    PIXEL_FIELD_NUMBER: _ClassVar[int]
    VARIATION_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    N_SEEDS_FIELD_NUMBER: _ClassVar[int]
    scan_id: str
    number: int
    part: str
    first_row: int
    reco: str
    startup_sha256: str
    nside: int
    pixel: bytes
    variation: bytes
    direction: bytes
    seeds: bytes
    n_seeds: int
    def __init__(self, scan_id: _Optional[str] = ..., number: _Optional[int] = ..., part: _Optional[str] = ..., first_row: _Optional[int] = ..., reco: _Optional[str] = ..., startup_sha256: _Optional[str] = ..., nside: _Optional[int] = ..., pixel: _Optional[bytes] = ..., variation: _Optional[bytes] = ..., direction: _Optional[bytes] = ..., seeds: _Optional[bytes] = ..., n_seeds: _Optional[int] = ...) -> None: ...

class PixelResult(_message.Message):
    __slots__ = ("scan_id", "number", "first_row", "nside", "pixel", "variation", "llh", "position_m", "time_ns", "n_hits", "hypothesis", "rival_llh", "energy_inside_gev", "energy_total_gev", "failure", "started_unix_ns", "worker_s", "worker", "models")
    SCAN_ID_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    FIRST_ROW_FIELD_NUMBER: _ClassVar[int]
    NSIDE_FIELD_NUMBER: _ClassVar[int]
    PIXEL_FIELD_NUMBER: _ClassVar[int]
    VARIATION_FIELD_NUMBER: _ClassVar[int]
    LLH_FIELD_NUMBER: _ClassVar[int]
    POSITION_M_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    N_HITS_FIELD_NUMBER: _ClassVar[int]
    HYPOTHESIS_FIELD_NUMBER: _ClassVar[int]
    RIVAL_LLH_FIELD_NUMBER: _ClassVar[int]
    ENERGY_INSIDE_GEV_FIELD_NUMBER: _ClassVar[int]
    ENERGY_TOTAL_GEV_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    STARTED_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    WORKER_S_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    scan_id: str
    number: int
    first_row: int
    nside: int
    pixel: bytes
    variation: bytes
    llh: bytes
    position_m: bytes
    time_ns: bytes
    n_hits: bytes
    hypothesis: bytes
    rival_llh: bytes
    energy_inside_gev: bytes
    energy_total_gev: bytes
    failure: str
    started_unix_ns: int
    worker_s: float
    worker: str
    models: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, scan_id: _Optional[str] = ..., number: _Optional[int] = ..., first_row: _Optional[int] = ..., nside: _Optional[int] = ..., pixel: _Optional[bytes] = ..., variation: _Optional[bytes] = ..., llh: _Optional[bytes] = ..., position_m: _Optional[bytes] = ..., time_ns: _Optional[bytes] = ..., n_hits: _Optional[bytes] = ..., hypothesis: _Optional[bytes] = ..., rival_llh: _Optional[bytes] = ..., energy_inside_gev: _Optional[bytes] = ..., energy_total_gev: _Optional[bytes] = ..., failure: _Optional[str] = ..., started_unix_ns: _Optional[int] = ..., worker_s: _Optional[float] = ..., worker: _Optional[str] = ..., models: _Optional[_Iterable[str]] = ...) -> None: ...

class ScanEnded(_message.Message):
    __slots__ = ("scan", "contours")
    SCAN_FIELD_NUMBER: _ClassVar[int]
    CONTOURS_FIELD_NUMBER: _ClassVar[int]
    scan: Scan
    contours: _containers.RepeatedCompositeFieldContainer[Contour]
    def __init__(self, scan: _Optional[_Union[Scan, _Mapping]] = ..., contours: _Optional[_Iterable[_Union[Contour, _Mapping]]] = ...) -> None: ...

class Contour(_message.Message):
    __slots__ = ("containment", "method", "two_delta_llh", "area_deg2")
    CONTAINMENT_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    TWO_DELTA_LLH_FIELD_NUMBER: _ClassVar[int]
    AREA_DEG2_FIELD_NUMBER: _ClassVar[int]
    containment: float
    method: str
    two_delta_llh: float
    area_deg2: float
    def __init__(self, containment: _Optional[float] = ..., method: _Optional[str] = ..., two_delta_llh: _Optional[float] = ..., area_deg2: _Optional[float] = ...) -> None: ...
