import json
import math
import sys
from pathlib import Path

import pytest

from icestream.cli.event_facts import cleaned_rows
from icestream.physics.cleaning import clean, taken
from icestream.physics.detector import icecube86
from icestream.readers.realtime import read_realtime_event
from tests.unit.cli.conftest import Command
from tests.unit.cli.event_cases import GOLD, alert, needs_real_events, write_alerts


@pytest.fixture
def message(tmp_path: Path) -> Path:
    path = tmp_path / "alert.json"
    path.write_bytes(alert().as_json())
    return path


def test_a_message_is_shown_for_people(icestream: Command, message: Path) -> None:
    status, out, err = icestream("event", "show", message)
    assert (status, err) == (0, "")
    for words in (
        "run 136000, event 7, sub-event 0",
        "2022-01-01T00:16:40.000000000  (MJD 59580.01157407407)",
        "icecube86, recorded",
        "2021a",
        "begins 6.000 µs before the event; pulse times count from there",
        "3 modules, 6 pulses (5 HLC), 12.25 p.e., 1000 to 5600 ns",
        "4 modules, 5 pulses, 8.5 p.e.",
        "bdt_up 0.25",
        "OnlineL2_SplineMPE",
    ):
        assert words in out
    assert "I3SuperDST" not in out
    assert "nan" not in out


def test_json_is_one_object_with_everything(icestream: Command, message: Path) -> None:
    status, out, _ = icestream("event", "show", message, "--json", "--direction", "57.29577951308232,114.6")
    assert status == 0
    content = json.loads(out)
    assert (content["run_id"], content["event_id"], content["event_type"]) == (136_000, 7, "neutrino")
    assert content["start_unix_ns"] - content["readout_start_unix_ns"] == 6000
    assert content["is_real"]
    assert content["pulses"]["n_pulses"] == 6
    assert content["alert"]["n_channels"] == 4
    assert "contents" not in content
    by_name = {each["name"]: each for each in content["directions"]}
    track, failed, given = (by_name[name] for name in ("OnlineL2_SplineMPE", "Failed", "--direction"))
    assert track["is_online_track"]
    assert track["zenith_deg"] == pytest.approx(math.degrees(2.0))
    assert -90 < track["dec_deg"] < 90
    assert track["off_given_deg"] == pytest.approx(114.6 - math.degrees(2.0))
    assert (failed["zenith_deg"], failed["ra_deg"], failed["off_given_deg"]) == (None, None, None)
    assert (given["origin"], given["off_given_deg"]) == (None, 0.0)


def test_everything_in_the_file_is_listed_when_asked_for(icestream: Command, message: Path) -> None:
    _, out, _ = icestream("event", "show", message, "--contents")
    assert "frame Q: 3 objects" in out
    assert "I3SuperDST, " in out
    assert "6 pulses of 3 modules, 12.25 p.e." in out
    _, out, _ = icestream("event", "show", message, "--contents", "--json")
    frames = json.loads(out)["contents"]
    assert [frame["stream"] for frame in frames] == ["Q", "P"]
    assert {each["key"] for each in frames[0]["objects"]} == {
        "QI3EventHeader",
        "I3SuperDST",
        "InIceDSTPulses",
    }


def test_one_of_several_messages_can_be_chosen(icestream: Command, tmp_path: Path) -> None:
    folder = write_alerts(tmp_path / "alerts", n_damaged=1)
    _, out, err = icestream("event", "show", folder, "--json")
    assert json.loads(out)["event_id"] == 7
    assert "showing icecube86/136000.7.0, the first of 3 events; --event-id chooses another" in err
    for choice in (["--event-id", "136000.9"], ["--event-id", "9"], ["--event-index", "2"]):
        _, out, err = icestream("event", "show", folder, "--json", *choice)
        assert (json.loads(out)["event_id"], err) == (9, "")


def test_events_of_kaggle_data_sets_are_shown_with_their_truth(icestream: Command, dataset: Path) -> None:
    status, out, _ = icestream("event", "show", dataset, "--event-id", "1.2", "--json")
    assert status == 0
    content = json.loads(out)
    assert (content["event_id"], content["format_version"], content["alert"]) == (2, None, None)
    [truth] = content["directions"]
    assert truth["name"] == "truth"
    assert truth["ra_deg"] is not None
    assert not content["is_real"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{message}", "--plot", "a.gif"], "expected a name that ends in .png or .pdf"),
        (
            ["{message}", "--plot", "/no/such/folder/a.png"],
            "a.png cannot be written: No such file or directory",
        ),
        (["{message}", "--direction", "1"], "'1' is not AZIMUTH,ZENITH, in degrees"),
        (["{message}", "--direction", "1,200"], "lies in [0, 180] degrees"),
        (["{message}", "--event-index", "1"], "has no event at index 1 of 1"),
        (["{message}", "--event-index", "0", "--event-id", "7"], "say which event once"),
        (["{message}", "--event-id", "8"], "readable are 136000.7.0"),
        (["{dataset}", "--event-id", "0", "--contents"], "lists objects of realtime messages"),
        (["{damaged}"], "this is no JSON document"),
        (["/no/such/file"], "no such file or folder"),
    ],
)
def test_what_cannot_be_shown_is_one_clear_line(
    icestream: Command, message: Path, dataset: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    damaged = tmp_path / "damaged.json"
    damaged.write_bytes(message.read_bytes()[:1000])
    given = [each.format(message=message, dataset=dataset, damaged=damaged) for each in arguments]
    status, out, err = icestream("event", "show", *given)
    assert (status, out) == (1, "")
    assert words in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".pdf", b"%PDF")])
def test_an_event_is_drawn(
    icestream: Command, message: Path, tmp_path: Path, suffix: str, start: bytes
) -> None:
    path = tmp_path / f"event{suffix}"
    status, out, _ = icestream("event", "show", message, "--plot", path, "--direction", "10,20")
    assert status == 0
    assert out.splitlines()[-1] == str(path)
    assert path.read_bytes().startswith(start)
    assert sorted(tmp_path.iterdir()) == sorted([message, path])


def test_without_matplotlib_only_the_picture_is_missing(
    icestream: Command, message: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "icestream.cli.event_plot", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert icestream("event", "show", message)[0] == 0
    status, _, err = icestream("event", "show", message, "--plot", tmp_path / "a.png")
    assert status == 1
    assert "--plot needs matplotlib; install it with: pip install 'icestream[plots]'" in err


@needs_real_events
def test_a_real_alert_is_counted_as_the_alert_counts(icestream: Command) -> None:
    status, out, _ = icestream("event", "show", GOLD, "--json")
    assert status == 0
    content = json.loads(out)
    assert (content["mjd"], content["event_type"]) == (59754.67588432013, "neutrino")
    ours, theirs = content["cleaned_without_deepcore"], content["alert"]
    assert (ours["n_modules"], ours["n_pulses"]) == (theirs["n_channels"], theirs["n_pulses"]) == (239, 1641)
    assert ours["charge_pe"] == pytest.approx(theirs["charge_pe"], abs=1e-4)
    assert content["cleaned"]["n_pulses"] == 1674
    [track] = [each for each in content["directions"] if each["is_online_track"]]
    assert (round(track["ra_deg"], 2), round(track["dec_deg"], 2)) == (224.4, 40.69)


@needs_real_events
def test_marked_pulses_are_those_that_cleaning_keeps() -> None:
    pulses, detector = read_realtime_event(GOLD).event.pulses, icecube86()
    kept = taken(pulses, cleaned_rows(pulses, detector))
    expected = clean(pulses, detector, strings_below=None)
    assert kept.time_ns.tolist() == expected.time_ns.tolist()
    assert kept.sensor_id.tolist() == expected.sensor_id.tolist()
