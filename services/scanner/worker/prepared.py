"""What a worker knows of the scans that it works for, made once and kept for a while."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from icestream.physics.detector import Detector
from icestream.scan_codec import decode_startup
from icestream.scans.recos.reco import PreparedEvent, Reco

_MAX_DETECTORS = 4


class StartupData(Protocol):
    """Where events and detectors are."""

    async def get(self, name: str) -> bytes:
        """The bytes of this SHA-256.

        Raises:
            UndecodableMessage: There is no such object, or it is damaged.
            BrokerUnavailable: The broker does not answer.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class PreparedScan:
    """A reco and its view of a scan's event."""

    reco: Reco
    prepared: PreparedEvent


class PreparedScans:
    """The scans that were worked for last."""

    def __init__(self, startup_data: StartupData, find_reco: Callable[[str], Reco], *, capacity: int) -> None:
        self._startup_data = startup_data
        self._find_reco = find_reco
        self._capacity = capacity
        # Tasks: a second batch of the same scan waits for what the first one has begun to load.
        self._scans: OrderedDict[tuple[str, str], asyncio.Task[PreparedScan]] = OrderedDict()
        self._detectors: deque[Detector] = deque(maxlen=_MAX_DETECTORS)

    async def get(self, reco: str, startup_sha256: str) -> PreparedScan:
        """A scan's reco and event.

        Raises:
            UnknownReco: It is not installed here.
            InvalidEvent: The event is nothing for the reco.
            UndecodableMessage: There are no such startup data, or they are damaged.
            BrokerUnavailable: The broker does not answer.
        """
        key = reco, startup_sha256
        loading = self._scans.get(key)
        if loading is None:
            loading = self._scans[key] = asyncio.create_task(self._load(reco, startup_sha256))
            if len(self._scans) > self._capacity:
                self._scans.popitem(last=False)
        self._scans.move_to_end(key)
        try:
            # A batch whose time is up does not end what others wait for.
            return await asyncio.shield(loading)
        except BaseException:
            # Cancelled as well: what took too long may hang.
            if self._scans.get(key) is loading:
                del self._scans[key]
            raise

    async def _load(self, name: str, startup_sha256: str) -> PreparedScan:
        reco = self._find_reco(name)
        event, detector = decode_startup(await self._startup_data.get(startup_sha256))
        # It may compute for a while, and heartbeats must go on.
        return PreparedScan(reco, await asyncio.to_thread(reco.prepare, event, self._known(detector)))

    def _known(self, detector: Detector) -> Detector:
        """The detector that was decoded before, if it is the same.

        The physics keeps what it derives from a detector, such as which modules are neighbours, for as long as it
        meets the same object; deriving it for each scan would take longer than all the rest of the preparation.
        """
        for known in self._detectors:
            if _are_equal(known, detector):
                return known
        self._detectors.append(detector)
        return detector


def _are_equal(one: Detector, other: Detector) -> bool:
    return (
        one.name == other.name
        and np.array_equal(one.positions_m, other.positions_m)
        and np.array_equal(one.efficiency, other.efficiency)
    )
