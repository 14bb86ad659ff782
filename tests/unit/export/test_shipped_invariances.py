"""What must not change the shipped model's answers, or change them in a known way, on simulated events."""

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from export.served import open_session
from icestream.physics.detector import icecube86
from icestream.physics.events import Event
from icestream.physics.features import MAX_MODEL_PULSES, FeatureArray, pulse_features
from tests.support.shipped_model import (
    MODELS,
    Answers,
    Question,
    angles_rad,
    ask,
    assert_same,
    newest_version,
    simulated_events,
)

EVENTS = simulated_events(1000)
STARTS_NS = (10e3, 35e3, 735e3)
"""Where published events have their light: as a rule 10 us after the readout's start, once 735 us."""
ROUNDING = 1e-4
"""Room for another order of summation in float32."""
A_HUNDREDTH_OF_A_DEGREE = np.radians(0.01)


@pytest.fixture(scope="module", params=MODELS, ids=lambda model: model.name)
def session(request: pytest.FixtureRequest) -> onnxruntime.InferenceSession:
    return open_session(newest_version(request.param) / "model.onnx")


@pytest.fixture(scope="module")
def question() -> Question:
    return Question.about(EVENTS)


@pytest.fixture(scope="module")
def answers(session: onnxruntime.InferenceSession, question: Question) -> Answers:
    return ask(session, question)


def rows_of(answers: Answers, chosen: NDArray[np.bool_]) -> Answers:
    return Answers(answers.direction[chosen], answers.kappa[chosen], answers.radii_rad[chosen])


@pytest.mark.parametrize("extra_rows", [16, 64])
@pytest.mark.parametrize("is_cut", [False, True], ids=["whole events", "cut events"])
def test_more_padding_changes_not_a_bit(
    session: onnxruntime.InferenceSession,
    question: Question,
    answers: Answers,
    extra_rows: int,
    is_cut: bool,
) -> None:
    chosen = (np.array(question.n_pulses) > MAX_MODEL_PULSES) == is_cut
    assert chosen.sum() >= 100
    padded = ask(session, question, extra_rows=extra_rows)
    assert_same(rows_of(padded, chosen), rows_of(answers, chosen), tolerance=0)


def test_pulses_of_one_time_may_stand_in_any_order(
    session: onnxruntime.InferenceSession, question: Question, answers: Answers
) -> None:
    rng = np.random.default_rng(1)

    def shuffled_within_times(table: FeatureArray) -> FeatureArray:
        shuffled = rng.permutation(table)
        return shuffled[np.argsort(shuffled[:, 3], kind="stable")]

    shuffled = question.changed(shuffled_within_times)
    pairs = zip(shuffled.tables, question.tables, strict=True)
    assert sum((one != other).any() for one, other in pairs) >= 200
    assert_same(ask(session, shuffled), answers, ROUNDING)


def test_the_order_of_pulses_changes_nothing_beyond_rounding(
    session: onnxruntime.InferenceSession, question: Question, answers: Answers
) -> None:
    rng = np.random.default_rng(2)
    shuffled = ask(session, question.changed(rng.permutation))
    angles = angles_rad(shuffled.direction, answers.direction)
    assert np.quantile(angles, 0.99) < ROUNDING
    # Light on a single string leaves the azimuth open, and so to rounding.
    assert (angles < answers.radii_rad[:, 0] / 50).all()


@pytest.mark.parametrize("start_ns", STARTS_NS)
def test_where_in_the_readout_the_light_lies_changes_not_a_bit(
    session: onnxruntime.InferenceSession, answers: Answers, start_ns: float
) -> None:
    later = Question.about([shifted(event, start_ns) for event in EVENTS])
    for table, event in zip(later.tables, EVENTS, strict=True):
        np.testing.assert_array_equal(table, pulse_features(event.pulses, icecube86()))
    assert_same(ask(session, later), answers, tolerance=0)


def shifted(event: Event, by_ns: float) -> Event:
    return replace(event, pulses=replace(event.pulses, time_ns=event.pulses.time_ns + by_ns))


@pytest.mark.parametrize("angle_deg", [60, 211])
def test_the_answer_turns_with_the_event(
    session: onnxruntime.InferenceSession, question: Question, answers: Answers, angle_deg: float
) -> None:
    turn = about_the_vertical(np.radians(angle_deg))
    turned = ask(session, question.changed(lambda table: turned_table(table, turn)))
    angles = angles_rad(turned.direction, answers.direction @ turn.T)
    has_azimuth = np.array([n_strings(event) >= 3 for event in EVENTS])
    assert has_azimuth.mean() > 0.75
    assert np.quantile(angles[has_azimuth], 0.99) < A_HUNDREDTH_OF_A_DEGREE
    # Light on one or two strings alone leaves the azimuth open; such an answer says how little it knows.
    assert (angles < answers.radii_rad[:, 0]).mean() > 0.97
    assert (angles < answers.radii_rad[:, 1]).mean() > 0.99


def about_the_vertical(angle_rad: float) -> NDArray[np.float64]:
    cosine, sine = np.cos(angle_rad), np.sin(angle_rad)
    return np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])


def turned_table(table: FeatureArray, turn: NDArray[np.float64]) -> FeatureArray:
    return np.concatenate(((table[:, :3] @ turn.T).astype(np.float32), table[:, 3:]), axis=1)


def n_strings(event: Event) -> int:
    """Strings with light in coincidence."""
    return len(np.unique(event.pulses.sensor_id[event.pulses.is_hlc] // 60))
