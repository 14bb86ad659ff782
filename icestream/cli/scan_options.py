"""How to scan, as flags say it."""

import math
from collections.abc import Sequence

from icestream.errors import InvalidScan
from icestream.scan_codec import DEFAULT_POINTING_RADIUS_RAD, options_from_message
from icestream.scans import milestones
from icestream.scans.plan import check_size
from icestream.scans.progression import Progression
from icestream.v1 import scan_pb2


def scan_options(
    *,
    reco: str,
    nsides: str | None,
    priority: int,
    pointing: str | None,
    pointing_detector: str | None,
    predictive_threshold: float,
    classifiers: Sequence[str],
) -> scan_pb2.ScanOptions:
    """The flags as a message, if they can be right.

    Raises:
        InvalidScan: It says which flag is wrong, and what would be right.
    """
    milestones.shares(predictive_threshold)
    progression = Progression.parse(nsides).levels if nsides is not None else ()
    message = scan_pb2.ScanOptions(
        reco=reco,
        progression=[
            scan_pb2.ScanLevel(nside=nside, extension=extension) for nside, extension in progression
        ],
        predictive_threshold=predictive_threshold,
        pointing=_pointing(pointing, pointing_detector),
        priority=priority,
        classifiers=labels(classifiers),
    )
    options = options_from_message(message)
    check_size(options.progression, options.pointing)
    return message


def labels(texts: Sequence[str]) -> dict[str, str]:
    """Read `<key>=<value>`, each.

    Raises:
        InvalidScan: A text is of another form.
    """
    parts = [text.partition("=") for text in texts]
    for text, (key, equals, _) in zip(texts, parts, strict=True):
        if not key or not equals:
            raise InvalidScan(f"--classifier {text!r} is not <key>=<value>")
    return {key: value for key, _, value in parts}


def _pointing(sky: str | None, detector: str | None) -> scan_pb2.Pointing | None:
    if sky is not None and detector is not None:
        raise InvalidScan("a scan points to one place: choose --pointing or --pointing-detector")
    if sky is not None:
        ra_deg, dec_deg, radius_rad = _disc("--pointing", "RA,DEC[,RADIUS]", sky, (-90.0, 90.0))
        equatorial = scan_pb2.Equatorial(ra_rad=math.radians(ra_deg), dec_rad=math.radians(dec_deg))
        return scan_pb2.Pointing(equatorial=equatorial, radius_rad=radius_rad)
    if detector is not None:
        azimuth_deg, zenith_deg, radius_rad = _disc(
            "--pointing-detector", "AZ,ZEN[,RADIUS]", detector, (0.0, 180.0)
        )
        horizontal = scan_pb2.Horizontal(
            azimuth_rad=math.radians(azimuth_deg), zenith_rad=math.radians(zenith_deg)
        )
        return scan_pb2.Pointing(horizontal=horizontal, radius_rad=radius_rad)
    return None


def _disc(flag: str, form: str, text: str, latitudes_deg: tuple[float, float]) -> tuple[float, float, float]:
    """Both angles in degrees, and the radius in rad."""
    try:
        first, second, *rest = [float(part) for part in text.split(",")]
        [radius_deg] = rest or [math.degrees(DEFAULT_POINTING_RADIUS_RAD)]
    except ValueError as error:
        raise InvalidScan(f"{flag} {text!r} is not {form}, in degrees") from error
    lowest, highest = latitudes_deg
    # Written so that NaN fails as well.
    if not (math.isfinite(first) and lowest <= second <= highest and 0 < radius_deg <= 180):
        raise InvalidScan(
            f"{flag} {text!r} is no part of the sky; in {form} the second angle lies in "
            f"[{lowest:g}, {highest:g}] degrees and the radius in (0, 180]"
        )
    return first, second, math.radians(radius_deg)
