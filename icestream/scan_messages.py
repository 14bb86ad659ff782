"""What is known of a scan, as messages."""

import numpy as np

from icestream.physics.directions import angles
from icestream.scan_codec import options_to_message
from icestream.scans.level_results import BestPixel
from icestream.scans.progress import progress_at
from icestream.scans.request import Frame, ScanRequest
from icestream.scans.state import ScanState
from icestream.v1 import scan_pb2


def header_message(request: ScanRequest, *, trace_id: str) -> scan_pb2.Scan:
    """What never changes of a scan."""
    return scan_pb2.Scan(
        scan_id=request.scan_id,
        run_id=request.event_id.run_id,
        event_id=request.event_id.event_id,
        sub_event=request.event_id.sub_event,
        detector=request.detector,
        start_unix_ns=request.start_unix_ns,
        options=options_to_message(request.options, request.frame),
        created_unix_ns=request.created_unix_ns,
        trace_id=trace_id,
    )


def progress_message(state: ScanState, now_unix_ns: int) -> scan_pb2.ScanProgress:
    """How far it is."""
    progress = progress_at(state, now_unix_ns)
    return scan_pb2.ScanProgress(
        levels=[
            scan_pb2.LevelProgress(
                nside=level.nside,
                n_pixels_planned=level.n_pixels_planned,
                n_pixels_done=level.n_pixels_done,
                n_pixels_expected=level.n_pixels_expected,
                mean_fit_s=level.mean_fit_s,
                fastest_fit_s=level.fastest_fit_s,
                slowest_fit_s=level.slowest_fit_s,
            )
            for level in progress.levels
        ],
        n_fits_sent=progress.n_fits_sent,
        n_fits_done=progress.n_fits_done,
        n_pixels_missing=progress.n_pixels_missing,
        fits_per_s=progress.fits_per_s,
        eta_s=progress.eta_s,
        elapsed_s=progress.elapsed_s,
        n_unknown=progress.n_unknown,
        n_duplicates=progress.n_duplicates,
        n_late=progress.n_late,
        worker_s=progress.worker_s,
    )


def best_message(best: BestPixel, frame: Frame, hypotheses: tuple[str, ...]) -> scan_pb2.BestFit:
    """Its best pixel."""
    azimuth, zenith = angles(best.direction)
    message = scan_pb2.BestFit(
        horizontal=scan_pb2.Horizontal(azimuth_rad=float(azimuth), zenith_rad=float(zenith)),
        llh=best.llh,
        nside=best.nside,
        pixel=best.pixel,
        # A reco that is not installed any more has none.
        hypothesis=hypotheses[best.hypothesis] if best.hypothesis < len(hypotheses) else "",
        evidence=best.rival_llh - best.llh,
    )
    if frame is Frame.EQUATORIAL:
        longitude, colatitude = angles(best.centre)
        message.equatorial.ra_rad = float(longitude)
        message.equatorial.dec_rad = float(np.pi / 2 - colatitude)
    return message
