from dataclasses import replace

import numpy as np
import pytest

from icestream.physics.detector import Detector
from icestream.physics.events import Event, EventId
from icestream.scan_codec import encode_startup
from icestream.scans.recos.dummy import Dummy
from icestream.scans.recos.reco import PreparedEvent
from services.scanner.worker.prepared import PreparedScans
from tests.support.fake_jetstream import FakeObjects
from tests.unit.scanner.worker_cases import EVENT, TOY


class Watchful(Dummy):
    """Remembers the detectors that it was given."""

    def __init__(self) -> None:
        self.detectors: list[Detector] = []

    def prepare(self, event: Event, detector: Detector) -> PreparedEvent:
        self.detectors.append(detector)
        return super().prepare(event, detector)


async def detectors_of(*startups: tuple[Event, Detector]) -> list[Detector]:
    """What a reco is given for scans that come one after the other."""
    reco, objects = Watchful(), FakeObjects()
    scans = PreparedScans(objects, lambda _: reco, capacity=1)
    for event, detector in startups:
        await scans.get(reco.name, await objects.put(encode_startup(event, detector)))
    return reco.detectors


async def test_scans_of_one_telescope_share_its_detector() -> None:
    first, second = await detectors_of((EVENT, TOY), (replace(EVENT, id=EventId(1, 3)), TOY))
    assert first is second
    assert first.name == TOY.name
    assert first.positions_m.tolist() == TOY.positions_m.tolist()


@pytest.mark.parametrize(
    "other",
    [
        replace(TOY, name="other"),
        replace(TOY, positions_m=TOY.positions_m + 1.0),
        replace(TOY, efficiency=TOY.efficiency * 1.35),
        Detector("toy", TOY.positions_m[:10], TOY.efficiency[:10]),
    ],
    ids=["name", "positions", "efficiency", "size"],
)
async def test_another_detector_is_taken_as_it_is(other: Detector) -> None:
    first, second, again = await detectors_of((EVENT, TOY), (EVENT, other), (EVENT, TOY))
    assert second is not first
    assert second.name == other.name
    assert np.array_equal(second.positions_m, other.positions_m)
    assert np.array_equal(second.efficiency, other.efficiency)
    assert again is first
