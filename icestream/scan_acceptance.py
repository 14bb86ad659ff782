"""What a client may ask of a scan, and the scan that this makes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from icestream.errors import InvalidScan, UnknownReco
from icestream.physics import celestial
from icestream.physics.directions import angles, unit_vectors
from icestream.physics.events import Event
from icestream.scan_codec import options_from_message, pointing_frame
from icestream.scans import milestones
from icestream.scans.plan import check_size
from icestream.scans.recos.reco import PreparedEvent, Reco
from icestream.scans.request import Frame, Pointing, Scalar, ScanOptions, ScanRequest
from icestream.v1 import scan_pb2

DEFAULT_RECO = "track_mpe"
MAX_LABELS = 25
MAX_LABEL_LENGTH = 25
MAX_VARIATIONS = 64
_FURTHEST_M = 1e5


def checked_options(
    message: scan_pb2.ScanOptions,
    *,
    default_reco: str,
    find_reco: Callable[[str], Reco],
    start_unix_ns: int,
) -> tuple[ScanOptions, Reco, Frame]:
    """The options with all defaults filled in, the reco, and the frame of the map.

    Args:
        message: What the client says.
        default_reco: Where it names none.
        find_reco: The reco of a name.
        start_unix_ns: Time of the event; 0 where it is not known.

    Raises:
        InvalidScan: It names the field that is wrong.
        UnknownReco: There is no such reco.
    """
    frame = Frame.EQUATORIAL if start_unix_ns else Frame.DETECTOR
    with _about("options.progression"):
        options = options_from_message(message, default_reco=default_reco)
    reco = find_reco(options.reco)
    with _about("options.predictive_threshold"):
        milestones.shares(options.predictive_threshold)
    if message.HasField("pointing") and pointing_frame(message) is None:
        raise InvalidScan("a pointing has a centre", field="options.pointing")
    with _about("options.pointing" if options.pointing else "options.progression"):
        check_size(options.progression, options.pointing)
    _check_labels(options.classifiers)
    offsets_m = options.offsets_m or reco.offsets_m
    _check_variations(offsets_m)
    pointing = _in_frame(options.pointing, pointing_frame(message), frame, start_unix_ns)
    return replace(options, pointing=pointing, offsets_m=offsets_m), reco, frame


def accepted_request(
    scan_id: str,
    event: Event,
    options: ScanOptions,
    reco: Reco,
    prepared: PreparedEvent,
    frame: Frame,
    *,
    created_unix_ns: int,
    startup_sha256: str = "",
) -> ScanRequest:
    """A scan with all that its course depends on; options, reco and frame as of `checked_options`."""
    return ScanRequest(
        scan_id=scan_id,
        event_id=event.id,
        detector=event.detector,
        start_unix_ns=event.start_unix_ns,
        n_pulses=len(event.pulses),
        options=options,
        frame=frame,
        seed=prepared.seed,
        offsets_m=options.offsets_m or reco.offsets_m,
        rotates_offsets=reco.rotates_offsets,
        adds_fallback_seed=reco.adds_fallback_seed,
        levels_compare=reco.levels_compare,
        batch_size=reco.batch_size,
        created_unix_ns=created_unix_ns,
        startup_sha256=startup_sha256,
        alert_type=event.alert_type,
        is_real_event=event.is_real,
    )


@contextmanager
def _about(field: str) -> Iterator[None]:
    """Say which field of the request breaks a rule."""
    try:
        yield
    except UnknownReco:
        raise
    except InvalidScan as error:
        raise InvalidScan(str(error), field=field) from error


def _in_frame(
    pointing: Pointing | None, given: Frame | None, frame: Frame, start_unix_ns: int
) -> Pointing | None:
    """The pointing in the frame of the map."""
    if pointing is None or given is frame:
        return pointing
    if frame is Frame.DETECTOR:
        raise InvalidScan(
            "the event's time is not known, so that celestial coordinates mean nothing; point in detector "
            "coordinates",
            field="options.pointing.equatorial",
        )
    direction = unit_vectors(pointing.longitude_rad, pointing.colatitude_rad)
    longitude, colatitude = angles(celestial.to_equatorial(direction, start_unix_ns))
    return replace(pointing, longitude_rad=float(longitude), colatitude_rad=float(colatitude))


def _check_labels(labels: Mapping[str, Scalar]) -> None:
    if len(labels) > MAX_LABELS:
        raise InvalidScan(f"{len(labels)} labels; at most {MAX_LABELS}", field="options.classifiers")
    for key, value in labels.items():
        if not key or len(key) > MAX_LABEL_LENGTH or len(str(value)) > MAX_LABEL_LENGTH:
            raise InvalidScan(
                f"label {key!r} or its value is empty or too long; at most {MAX_LABEL_LENGTH} characters each",
                field="options.classifiers",
            )


def _check_variations(offsets_m: Sequence[tuple[float, float, float]]) -> None:
    if len(offsets_m) > MAX_VARIATIONS:
        raise InvalidScan(
            f"{len(offsets_m)} position variations; at most {MAX_VARIATIONS}",
            field="options.position_variations",
        )
    # Written so that NaN fails as well.
    if not all(abs(x_m) <= _FURTHEST_M for offset_m in offsets_m for x_m in offset_m):
        raise InvalidScan(
            f"a position variation is no number of at most {_FURTHEST_M:g} m",
            field="options.position_variations",
        )
