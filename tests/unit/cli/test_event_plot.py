import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from icestream.cli.event_facts import EventFacts, PulseCounts, facts_of
from icestream.cli.event_plot import draw_event
from icestream.cli.scan_event import event_of_dataset
from icestream.physics.detector import Detector, icecube86
from icestream.physics.events import Event, EventId, Pulses
from tests.unit.cli.event_cases import GOLD, alert, needs_real_events


def facts(path: Path, given: tuple[float, float] | None = None) -> EventFacts:
    chosen = event_of_dataset(path, detector="icecube86", event_index=None, event_id=None)
    return facts_of(chosen, icecube86(), given)


@pytest.fixture
def drawn(tmp_path: Path) -> EventFacts:
    path = tmp_path / "alert.json"
    path.write_bytes(alert().as_json())
    return facts(path, (0.5, 1.5))


def labels(figure: Figure) -> set[str]:
    return {text.get_text() for legend in figure.legends for text in legend.get_texts()}


def test_a_picture_says_whose_it_is_and_what_it_shows(drawn: EventFacts) -> None:
    figure = draw_event(drawn, icecube86())
    heading, subheading = (text.get_text() for text in figure.texts)
    assert heading == "Run 136000, event 7  ·  neutrino  ·  2022-01-01 00:16:40 UTC"
    assert "3 modules, 6 pulses, 12 p.e." in subheading
    assert {"OnlineL2_SplineMPE (online)", "given direction"} < labels(figure)
    assert "Failed" not in " ".join(labels(figure))


def test_arrows_fly_as_the_particle_did(drawn: EventFacts) -> None:
    # A zenith angle of 2 rad: from below, so that the arrow goes up.
    _, _, beside, _ = draw_event(drawn, icecube86()).axes
    arrows: list[Any] = list(beside.texts)
    [arrow] = [each for each in arrows if each.arrow_patch.get_edgecolor()[:3] == (17 / 255,) * 3]
    (start_x, start_z), (end_x, end_z) = arrow.xyann, arrow.xy
    assert end_z > start_z
    assert end_x > start_x
    assert math.atan2(end_z - start_z, end_x - start_x) == pytest.approx(2.0 - math.pi / 2)


def test_an_event_with_nothing_known_is_drawn_as_well() -> None:
    toy = Detector("toy", np.array([[0.0, 0, 0], [0, 0, 10], [5, 5, 5]]), np.ones(3))
    pulses = Pulses(np.array([1], np.uint16), np.zeros(1), np.zeros(1, np.float32), np.zeros(1, np.uint8))
    event = Event(EventId(1, 2), "toy", 0, pulses)
    counts = PulseCounts.of(pulses)
    none = EventFacts("here", event, None, np.zeros(1, np.bool_), counts, counts, counts, ())
    figure = draw_event(none, toy)
    assert figure.texts[0].get_text() == "Run 1, event 2"
    figure.canvas.draw()


def test_vertical_tracks_and_ones_that_miss_the_detector_are_drawn(drawn: EventFacts) -> None:
    track = next(each for each in drawn.directions if each.is_online_track)
    assert track.stored is not None
    vertical = replace(track, zenith_rad=0.0)
    astray = replace(vertical, stored=replace(track.stored, position_m=(1e6, 0.0, 0.0)))
    for direction in (vertical, astray):
        draw_event(replace(drawn, directions=(direction,)), icecube86()).canvas.draw()


@needs_real_events
def test_directions_that_an_alert_repeats_are_drawn_once() -> None:
    names = labels(draw_event(facts(GOLD), icecube86()))
    assert {"OnlineL2_SplineMPE (online)", "OnlineL2_BestFit, spefit2"} < names
