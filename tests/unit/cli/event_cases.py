"""Realtime messages for the commands: the five real ones where they are, and one of our own everywhere."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.readers.realtime.realtime_messages import REAL_EVENTS, Message, header, particle, string

GOLD = REAL_EVENTS / "run00136766-evt000007637140-GOLD.pkl"
needs_real_events = pytest.mark.skipif(
    not REAL_EVENTS.exists(), reason=f"the real events in {REAL_EVENTS} are not there"
)


def alert(run_id: int = 136_000, event_id: int = 7) -> Message:
    """A neutrino alert with a track, and a cascade that was not fitted."""
    nan = float("nan")
    return replace(
        Message().with_objects(
            "P",
            I3EventHeader=("I3EventHeader", header(run_id, event_id)),
            AlertShortFollowupMsg=("I3String", string('{"neutrino": 1}')),
            OnlineL2_SplineMPE=("I3Particle", particle(2.0, 1.0)),
            Failed=("I3Particle", particle(nan, nan)),
        ),
        figures={"unique_id": "one", "nch": 4, "npulses": 5, "qtot": 8.5, "neutrino": {"bdt_up": 0.25}},
    )


def write_alerts(folder: Path, *, n_damaged: int = 0) -> Path:
    """A folder with two messages, and damaged ones between them."""
    folder.mkdir()
    (folder / "a.json").write_bytes(alert(event_id=7).as_json())
    (folder / "c.pkl").write_bytes(alert(event_id=9).as_pickle())
    for number in range(n_damaged):
        (folder / f"b{number}.json").write_bytes(alert().as_json()[:-300])
    return folder
