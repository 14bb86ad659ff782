import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from export.dataset import LabelledEvents, label
from export.evaluate import parts_to_score, write_evaluation
from export.evaluation.card import batch_events, latest_version, read_card
from export.evaluation.plots import draw, vmf_radius_rad
from export.evaluation.report import header, rows
from export.evaluation.sample import LINE_FITS, ROBUST, read_sample, sample_of
from export.evaluation.scores import MODEL, Scores, groups_of, score, summarise
from export.labelled_dataset import LabelledDataset, Part
from icestream.physics.detector import Detector, icecube86
from icestream.physics.events import EventKind
from icestream.physics.simulation import simulate
from icestream.readers.kaggle import KaggleWriter
from tests.unit.export.export_cases import random_events

N = 400
ROOT = Path(__file__).resolve().parents[3]


def known_events() -> LabelledEvents:
    """Half tracks of 10 TeV, half cascades of 300 GeV."""
    kinds = np.repeat([int(EventKind.STARTING_TRACK), int(EventKind.CASCADE)], N // 2)
    return replace(random_events(1, N), kinds=kinds, energies_gev=np.repeat([1e4, 300.0], N // 2))


def known_scores() -> Scores:
    """The model is off by 1 degree on tracks and by 50 on cascades, the line fits by twice as much."""
    model = np.radians(np.repeat([1.0, 50.0], N // 2))
    angles = {MODEL: model, **dict.fromkeys(LINE_FITS, 2 * model)}
    kappas = np.repeat([1000.0, 1.0], N // 2)
    radii = np.radians(np.column_stack((np.full(N, 1.1), np.full(N, 60.0))))
    return Scores(angles, kappas, radii, 123.4)


def test_groups_hold_the_events_that_they_name() -> None:
    groups = groups_of(known_events())
    assert groups["all"].all()
    np.testing.assert_array_equal(groups["tracks > 1 TeV"], groups["starting tracks"])
    np.testing.assert_array_equal(groups["cascades"], groups["energy 1e2-1e3 GeV"])
    assert "through-going tracks" not in groups
    zeniths = [mask for name, mask in groups.items() if name.startswith("zenith")]
    np.testing.assert_array_equal(np.sum(zeniths, axis=0), np.ones(N))


def test_summary_states_angles_and_coverage_of_each_group() -> None:
    groups = summarise(known_events(), known_scores())["groups"]
    assert groups["tracks"]["angle_deg"][MODEL] == pytest.approx({"median": 1, "mean": 1})
    assert groups["all"]["angle_deg"][ROBUST] == pytest.approx({"median": 51, "mean": 51})
    assert groups["tracks"]["coverage"] == {"50": 1, "90": 1}
    assert groups["cascades"]["coverage"] == {"50": 0, "90": 1}


def test_table_compares_with_the_robust_line_fit() -> None:
    report = summarise(known_events(), known_scores())
    row = dict(zip(header(report), rows(report)[0], strict=True))
    assert row["group"] == "all"
    assert row["model : robust"] == "0.50 / 0.50"
    assert (row["in 50 %"], row["in 90 %"]) == ("50.0 %", "100.0 %")


def test_plots_are_small_pictures() -> None:
    plots = draw(known_events(), known_scores())
    assert set(plots) == {"cumulative", "energy", "zenith", "coverage", "kappa"}
    for png in plots.values():
        assert len(png) < 150_000
        assert image.imread(io.BytesIO(png)).std() > 0.01


def test_truth_without_energies_and_kinds_is_evaluated_too() -> None:
    events = random_events(1, N)
    assert set(draw(events, known_scores())) == {"cumulative", "zenith", "coverage", "kappa"}
    assert {name.split()[0] for name in summarise(events, known_scores())["groups"]} == {"all", "zenith"}


def test_evaluation_is_left_as_numbers_and_pictures(tmp_path: Path) -> None:
    write_evaluation({"n_events": 3}, {"kappa": b"png"}, tmp_path / "new")
    assert json.loads((tmp_path / "new/evaluation.json").read_text()) == {"n_events": 3}
    assert (tmp_path / "new/kappa.png").read_bytes() == b"png"


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_vmf_radius_holds_its_share_of_the_law(level: float) -> None:
    kappas = np.array([1e-3, 0.3, 5.0, 200.0])
    radii = vmf_radius_rad(kappas, level)
    shares = np.expm1(-kappas * (1 - np.cos(radii))) / np.expm1(-2 * kappas)
    np.testing.assert_allclose(shares, level, rtol=1e-6)


def test_a_model_is_not_scored_on_what_it_was_trained_on(tmp_path: Path) -> None:
    card = {"training": {"data": str(tmp_path.resolve())}}
    assert parts_to_score(card, tmp_path) == (Part.TEST,)
    assert set(parts_to_score(card, tmp_path / "other")) == set(Part)


def test_a_data_set_is_scored_in_its_own_geometry(tmp_path: Path) -> None:
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    own = Detector("own", icecube86().positions_m @ turn.T, np.ones(5160))
    events = list(simulate(icecube86(), seed=4, n_events=20))
    with KaggleWriter(tmp_path, detector=own) as writer:
        for event in events:
            writer.write(event)
    read = read_sample(LabelledDataset.open(tmp_path), 1000, tuple(Part))
    straight = sample_of(LabelledDataset.open(tmp_path).events(tuple(Part)), icecube86())
    np.testing.assert_allclose(read.line_fits, straight.line_fits @ turn.T, atol=1e-9)
    for turned, table in zip(read.events.tables, straight.events.tables, strict=True):
        np.testing.assert_allclose(turned[:, :3], table[:, :3] @ turn.T, atol=1e-4)
    np.testing.assert_array_equal(read.events.directions, label(events, icecube86()).directions)


@pytest.mark.parametrize("model", ["direction", "direction_fast"])
def test_shipped_model_beats_the_line_fits_on_the_first_test_events(model: str) -> None:
    folder = latest_version(ROOT / "model_repository" / model)
    card = read_card(folder)
    sample = sample_of(simulate(icecube86(), seed=900_003, n_events=300), icecube86())
    scores = score(folder / "model.onnx", sample, batch_events(card))
    angles = summarise(sample.events, scores)["groups"]["all"]["angle_deg"]
    assert angles[MODEL]["mean"] < 0.95 * min(angles[name]["mean"] for name in LINE_FITS)
