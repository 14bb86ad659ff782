"""A scan in this process: no broker, no workers, no model server."""

import asyncio
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from uuid import uuid4

from icestream.errors import UnknownModel
from icestream.physics import celestial
from icestream.physics.detector import Detector
from icestream.physics.events import Event
from icestream.ports import CallOptions
from icestream.runtime.onnx_models import OnnxModels, model_names
from icestream.scan_acceptance import DEFAULT_RECO, accepted_request, checked_options
from icestream.scan_messages import best_message, header_message, progress_message
from icestream.scans.progress import ScanProgress
from icestream.scans.recos import registry
from icestream.scans.recos.reco import PreparedEvent, Reco
from icestream.scans.request import Frame, ScanRequest
from icestream.scans.skymap import Skymap
from icestream.scans.state import FloatArray, ScanState, ToDetector
from icestream.scans.sweep import scan_in_process
from icestream.v1 import scan_pb2

_BATCH_PATIENCE_S = 600.0


async def scan_locally(
    event: Event,
    detector: Detector,
    options: scan_pb2.ScanOptions,
    model_repository: Path,
    show: Callable[[scan_pb2.Scan], None],
) -> Skymap:
    """Scan an event with all cores.

    Args:
        event: What to scan.
        detector: Where its sensors are.
        options: As for the scan service.
        model_repository: In Triton's layout.
        show: Told after each batch, the last one included.

    Raises:
        InvalidScan: It cannot be as it was asked to be.
        InvalidEvent: It is nothing for the reco.
        UnknownModel: The repository lacks a model of the reco.
        Misconfigured: onnxruntime is not installed, or a model is damaged.
    """
    reco = choose_reco(options.reco, model_repository)
    prepared = await asyncio.to_thread(reco.prepare, event, detector)
    request = local_request(event, options, reco, prepared, time.time_ns())
    to_detector: ToDetector = _unchanged
    if request.frame is Frame.EQUATORIAL:
        to_detector = partial(celestial.to_detector, unix_ns=event.start_unix_ns)
    n_cores = os.cpu_count() or 1

    def show_progress(state: ScanState, _: ScanProgress) -> None:
        show(scan_message(state, reco.hypotheses, time.time_ns()))

    async with OnnxModels(model_repository, n_threads=n_cores) as models:
        state = await scan_in_process(
            request,
            reco,
            prepared,
            models,
            to_detector,
            CallOptions(timeout_s=_BATCH_PATIENCE_S),
            show_progress,
            n_at_once=n_cores,
        )
        versions = models.versions
    notes = {"software": f"icestream {version('icestream')}"}
    if versions:
        notes["models"] = ", ".join(f"{model.name}/{model.version}" for model in versions)
    return state.skymap(hypotheses=reco.hypotheses, notes=notes)


def choose_reco(name: str, model_repository: Path) -> Reco:
    """The reco of this name, `DEFAULT_RECO` without one.

    Raises:
        UnknownReco: There is none of this name.
        UnknownModel: The repository lacks a model of it.
    """
    reco = registry.get(name or DEFAULT_RECO)
    present = set(model_names(model_repository))
    if missing := [model for model in reco.models if model not in present]:
        raise UnknownModel(missing[0], sorted(present))
    return reco


def local_request(
    event: Event, message: scan_pb2.ScanOptions, reco: Reco, prepared: PreparedEvent, now_unix_ns: int
) -> ScanRequest:
    """The scan as it is accepted: all defaults filled in.

    Raises:
        InvalidScan: The options break a rule, or point into the sky where the event's time is not known.
    """
    options, _, frame = checked_options(
        message, default_reco=reco.name, find_reco=lambda _: reco, start_unix_ns=event.start_unix_ns
    )
    return accepted_request(
        _new_id(now_unix_ns), event, options, reco, prepared, frame, created_unix_ns=now_unix_ns
    )


def scan_message(state: ScanState, hypotheses: tuple[str, ...], now_unix_ns: int) -> scan_pb2.Scan:
    """What the scan service would say of the same scan."""
    request, best = state.request, state.best
    message = header_message(request, trace_id="")
    message.state = _state(state)
    message.ended_unix_ns = now_unix_ns if state.is_ended else 0
    message.progress.CopyFrom(progress_message(state, now_unix_ns))
    if best is not None:
        message.best.CopyFrom(best_message(best, request.frame, hypotheses))
    return message


def _state(state: ScanState) -> scan_pb2.ScanState:
    if not state.is_ended:
        return scan_pb2.SCAN_STATE_RUNNING
    return scan_pb2.SCAN_STATE_COMPLETE if state.is_complete else scan_pb2.SCAN_STATE_INCOMPLETE


def _new_id(now_unix_ns: int) -> str:
    """Unique, and sorts by time."""
    return f"{datetime.fromtimestamp(now_unix_ns / 1e9, UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:8]}"


def _unchanged(vectors: FloatArray) -> FloatArray:
    return vectors
