import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icestream.cli import scan_local
from icestream.cli.scan_local import choose_reco, local_request
from icestream.errors import InvalidScan, ModelFailed, UnknownModel, UnknownReco
from icestream.physics import celestial
from icestream.physics.detector import icecube86
from icestream.physics.directions import opening_angles_rad, unit_vectors
from icestream.physics.simulation import simulate
from icestream.ports import CallOptions, TensorModel
from icestream.scans.pixels import PixelBatch, PixelFits
from icestream.scans.recos import registry
from icestream.scans.recos.dummy import RECO, SLEEP_VARIABLE, Dummy
from icestream.scans.recos.reco import PreparedEvent
from icestream.scans.request import Frame, Seed
from icestream.v1 import scan_pb2
from tests.support.models import add_model, mean_direction_model, model_inputs, random_batch
from tests.unit.cli.conftest import Command
from tests.unit.cli.event_cases import write_alerts

COARSE = ["--local", "--reco", "dummy", "--nsides", "2:0,8:4"]


@pytest.fixture(autouse=True)
def fast_dummy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SLEEP_VARIABLE, "0")


def test_a_scan_needs_no_server(icestream: Command, dataset: Path, no_plots: list[dict[str, Any]]) -> None:
    status, out, err = icestream("scan", dataset, *COARSE, "--json")
    assert status == 0
    content = json.loads(out)
    assert content["complete"]
    assert (content["reco"], content["nsides"], content["frame"]) == ("dummy", "2:0,8:4", "equatorial")
    assert 0 <= content["off_truth_deg"] <= 180
    assert "best so far" in err
    assert no_plots[0]["skymap"].notes["software"].startswith("icestream ")
    [call] = no_plots
    best = content["best"]
    best_vector = celestial.equatorial_vectors(np.radians(best["ra_deg"]), np.radians(best["dec_deg"]))
    off_deg = np.degrees(opening_angles_rad(call["truth"], best_vector))
    # The truth on the plots and in the report is the same direction.
    assert off_deg == pytest.approx(content["off_truth_deg"], abs=0.01)


def test_the_map_is_the_same_on_any_number_of_cores(
    icestream: Command,
    dataset: Path,
    no_plots: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for n_cores in (1, 5):
        monkeypatch.setattr(os, "cpu_count", lambda n=n_cores: n)
        assert icestream("scan", dataset, *COARSE, "--predictive-threshold", "0.3")[0] == 0
    first, second = (call["skymap"] for call in no_plots)
    for one, other in zip(first.levels, second.levels, strict=True):
        assert np.array_equal(one.pixel, other.pixel)
        assert np.array_equal(one.llh, other.llh)


def test_a_pointing_confines_the_first_level(
    icestream: Command, dataset: Path, no_plots: list[dict[str, Any]]
) -> None:
    flags = ["--local", "--reco", "dummy", "--nsides", "16:0", "--pointing-detector", "30,60,10"]
    assert icestream("scan", dataset, *flags)[0] == 0
    [level] = no_plots[0]["skymap"].levels
    assert 0 < len(level) < 40


def test_batches_that_fail_leave_holes_and_status_3(
    icestream: Command, dataset: Path, no_plots: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit, numbers = type(RECO).fit, iter(range(100))

    async def fail_first(*arguments: Any) -> Any:
        if next(numbers) == 0:
            raise ModelFailed("not this one")
        return await fit(*arguments)

    monkeypatch.setattr(type(RECO), "fit", fail_first)
    status, out, _ = icestream("scan", dataset, *COARSE)
    assert status == 3
    assert "no: the scan is incomplete and 32 planned pixels are missing" in out


class Asking(Dummy):
    """Asks a model as well."""

    models = ("mean",)

    async def fit(
        self, batch: PixelBatch, prepared: PreparedEvent, model: TensorModel, options: CallOptions
    ) -> PixelFits:
        pulses = random_batch(np.random.default_rng(1), n_events=len(batch), length=4)
        answer = await model.infer_tensors("mean", model_inputs(pulses), options)
        assert len(answer.tensors["kappa"]) == len(batch)
        return await super().fit(batch, prepared, model, options)


def test_models_are_asked_in_this_process_and_named_in_the_map(
    icestream: Command,
    dataset: Path,
    no_plots: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "installed_recos", lambda: {"dummy": Asking()})
    repository = tmp_path / "repository"
    flags = ["--local", "--nsides", "2:0", "--model-repository", repository]
    status, _, err = icestream("scan", dataset, "--reco", "dummy", *flags)
    assert status == 1
    assert "model 'mean' is not served here; available: none" in err
    add_model(repository, "mean", mean_direction_model(), version=3)
    assert icestream("scan", dataset, "--reco", "dummy", *flags)[0] == 0
    assert no_plots[0]["skymap"].notes["models"] == "mean/3"


def test_ctrl_c_ends_it(
    icestream: Command, dataset: Path, no_plots: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose_and_interrupt(*_: object) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        return RECO

    monkeypatch.setattr(scan_local, "choose_reco", choose_and_interrupt)
    monkeypatch.setenv(SLEEP_VARIABLE, "30")
    assert icestream("scan", dataset, *COARSE)[:2] == (130, "")
    assert no_plots == []


def test_a_timeout_is_an_error(icestream: Command, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SLEEP_VARIABLE, "30")
    status, _, err = icestream("scan", dataset, *COARSE, "--timeout", "0.2")
    assert status == 1
    assert "did not end within 0.2 s" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["icecube86/1.2.0", "--reco", "dummy"], "--local scans events of data sets"),
        (["{dataset}", "--reco", "nope", "--event-index", "0"], "there is no reco 'nope'; available: "),
        (["{dataset}", "--detector", "water", "--event-index", "0"], "is not known here"),
    ],
)
def test_what_cannot_be_scanned_here_is_one_clear_line(
    icestream: Command, dataset: Path, arguments: list[str], words: str
) -> None:
    if "water" in arguments:
        (dataset / "sensor_geometry.csv").rename(dataset / "hidden.csv")
    try:
        status, out, err = icestream("scan", *(a.format(dataset=dataset) for a in arguments), "--local")
    finally:
        if "water" in arguments:
            (dataset / "hidden.csv").rename(dataset / "sensor_geometry.csv")
    assert (status, out) == (1, "")
    assert words in err


def test_a_realtime_message_is_scanned_as_the_real_alert_that_it_is(
    icestream: Command, no_plots: list[dict[str, Any]], tmp_path: Path
) -> None:
    folder = write_alerts(tmp_path / "alerts", n_damaged=1)
    status, out, err = icestream("scan", folder, *COARSE, "--event-id", "9", "--json")
    assert status == 0, err
    content = json.loads(out)
    assert content["event"]["id"] == "136000.9.0"
    assert (content["event"]["type"], content["event"]["real"]) == ("neutrino", True)
    assert content["event"]["mjd"] == 59580.01157407407
    assert (content["off_truth_deg"], no_plots[0]["truth"]) == (None, None)
    online, best = content["online"], content["best"]
    assert (online["name"], round(online["zenith_deg"], 4)) == ("OnlineL2_SplineMPE", 114.5916)
    off_rad = opening_angles_rad(
        unit_vectors(1.0, 2.0), unit_vectors(np.radians(best["azimuth_deg"]), np.radians(best["zenith_deg"]))
    )
    assert online["off_deg"] == pytest.approx(np.degrees(off_rad))
    _, out, _ = icestream("scan", folder / "a.json", *COARSE)
    assert "° from OnlineL2_SplineMPE" in out
    status, _, err = icestream("scan", folder / "b0.json", *COARSE)
    assert status == 1
    assert "no JSON document" in err


def test_a_detector_of_ones_own_comes_from_the_data_set(
    icestream: Command, dataset: Path, no_plots: list[dict[str, Any]]
) -> None:
    status, out, _ = icestream("scan", dataset, *COARSE, "--detector", "water")
    assert status == 0
    assert "water/1.0.0" in out


def event_at(start_unix_ns: int) -> Any:
    from dataclasses import replace

    [event] = simulate(icecube86(), seed=3, n_events=1)
    return replace(event, start_unix_ns=start_unix_ns)


def prepared_for(event: Any) -> Any:
    return RECO.prepare(event, icecube86())


def test_defaults_are_filled_in() -> None:
    event = event_at(1_700_000_000_000_000_000)
    request = local_request(event, scan_pb2.ScanOptions(), RECO, prepared_for(event), 10**18)
    assert str(request.options.progression) == "8:0,64:12,512:24"
    assert (request.options.reco, request.options.predictive_threshold) == ("dummy", 1.0)
    assert (request.frame, request.batch_size) == (Frame.EQUATORIAL, RECO.batch_size)
    assert isinstance(request.seed, Seed)
    assert request.scan_id.startswith("20010909T014640-")


def test_an_event_of_unknown_time_is_mapped_in_the_detector() -> None:
    event = event_at(0)
    horizontal = scan_pb2.Horizontal(azimuth_rad=1.0, zenith_rad=2.0)
    options = scan_pb2.ScanOptions(pointing=scan_pb2.Pointing(horizontal=horizontal))
    request = local_request(event, options, RECO, prepared_for(event), 10**18)
    assert request.frame is Frame.DETECTOR
    assert request.options.pointing is not None
    assert request.options.pointing.longitude_rad == 1.0
    sky = scan_pb2.ScanOptions(pointing=scan_pb2.Pointing(equatorial=scan_pb2.Equatorial(ra_rad=1.0)))
    with pytest.raises(InvalidScan, match="time is not known"):
        local_request(event, sky, RECO, prepared_for(event), 10**18)


def test_a_pointing_in_the_detector_is_turned_into_the_sky() -> None:
    event = event_at(1_700_000_000_000_000_000)
    horizontal = scan_pb2.Horizontal(azimuth_rad=1.0, zenith_rad=2.0)
    options = scan_pb2.ScanOptions(pointing=scan_pb2.Pointing(horizontal=horizontal))
    pointing = local_request(event, options, RECO, prepared_for(event), 10**18).options.pointing
    assert pointing is not None
    sky = unit_vectors(pointing.longitude_rad, pointing.colatitude_rad)
    back = celestial.to_detector(sky, event.start_unix_ns)
    assert opening_angles_rad(back, unit_vectors(1.0, 2.0)) < 1e-9


def test_the_reco_must_be_there_with_its_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_reco("dummy", tmp_path).name == "dummy"
    with pytest.raises(UnknownReco):
        choose_reco("nope", tmp_path)
    with pytest.raises(UnknownModel, match="pixel_fit_track"):
        choose_reco("", tmp_path)
    monkeypatch.setattr(type(RECO), "models", ("pixel_fit",))
    with pytest.raises(UnknownModel, match="'pixel_fit'"):
        choose_reco("dummy", tmp_path)
    (tmp_path / "pixel_fit" / "1").mkdir(parents=True)
    (tmp_path / "pixel_fit" / "1" / "model.onnx").touch()
    assert choose_reco("dummy", tmp_path).name == "dummy"
