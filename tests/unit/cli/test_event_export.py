import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from icestream.physics.detector import icecube86
from icestream.readers.realtime import read_realtime_event
from tests.unit.cli.conftest import Command
from tests.unit.cli.event_cases import GOLD, alert, needs_real_events, write_alerts
from tests.unit.readers.realtime.realtime_messages import REAL_EVENTS


def test_a_message_becomes_a_table_of_its_pulses(icestream: Command, tmp_path: Path) -> None:
    path, out = tmp_path / "alert.json", tmp_path / "pulses.parquet"
    path.write_bytes(alert().as_json())
    status, stdout, err = icestream("event", "export", path, "--out", out)
    assert (status, err) == (0, "")
    assert stdout == f"{out}: 6 pulses of 1 events\n"
    table = pq.read_table(out)
    first, second = table.slice(0, 2).to_pylist()
    assert (first["run_id"], first["event_id"], first["sub_event"]) == (136_000, 7, 0)
    assert (first["string"], first["om"], first["sensor_id"]) == (1, 1, 0)
    assert (first["x_m"], first["y_m"], first["z_m"]) == tuple(icecube86().positions_m[0])
    assert (first["time_ns"], first["width_ns"], first["flags"], first["is_hlc"]) == (1000.0, 8.0, 7, True)
    assert first["charge_pe"] == pytest.approx(1.025)
    assert (second["string"], second["om"], second["flags"], second["is_hlc"]) == (86, 60, 4, False)
    assert table.schema.field("charge_pe").metadata == {b"unit": b"photo-electrons"}


def test_the_files_metadata_say_what_each_event_is(icestream: Command, tmp_path: Path) -> None:
    folder, out = write_alerts(tmp_path / "alerts"), tmp_path / "pulses.parquet"
    assert icestream("event", "export", folder, "--out", out)[0] == 0
    file = pq.ParquetFile(out)
    assert file.num_row_groups == 2
    metadata = file.metadata.metadata
    assert metadata is not None
    first, second = json.loads(metadata[b"icestream.events"])
    assert (first["id"], first["source"], second["id"]) == ("136000.7.0", "a.json", "136000.9.0")
    assert first["mjd"] == 59580.01157407407
    assert first["start_unix_ns"] - first["readout_start_unix_ns"] == 6000
    assert (first["event_type"], first["online_track"]) == ("neutrino", "OnlineL2_SplineMPE")
    assert {"name": "Failed", "origin": "P", "azimuth_deg": None, "zenith_deg": None} in first[
        "online_directions"
    ]


def test_damaged_messages_are_said_and_left_out_with_status_1(icestream: Command, tmp_path: Path) -> None:
    folder, out = write_alerts(tmp_path / "alerts", n_damaged=2), tmp_path / "pulses.parquet"
    status, stdout, err = icestream("event", "export", folder, "--out", out)
    assert status == 1
    assert "12 pulses of 2 events" in stdout
    assert "b0.json" in err
    assert "b1.json" in err
    assert "2 of 4 messages cannot be read" in err
    assert pq.read_table(out).num_rows == 12


def test_nothing_is_written_where_nothing_can_be_read(icestream: Command, tmp_path: Path) -> None:
    folder, out = write_alerts(tmp_path / "alerts", n_damaged=1), tmp_path / "pulses.parquet"
    status, _, err = icestream("event", "export", folder / "b0.json", "--out", out)
    assert status == 1
    assert "none of 1 messages can be read" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alerts"]


def test_what_cannot_be_exported_is_one_clear_line(icestream: Command, dataset: Path, tmp_path: Path) -> None:
    status, _, err = icestream("event", "export", dataset, "--out", tmp_path / "a.parquet")
    assert status == 1
    assert "a Kaggle data set, whose pulses are Parquet tables already" in err
    folder = write_alerts(tmp_path / "alerts")
    status, _, err = icestream("event", "export", folder, "--out", tmp_path / "no" / "a.parquet")
    assert status == 1
    assert "a.parquet cannot be written" in err


@needs_real_events
def test_all_pulses_of_the_real_events_are_exported(icestream: Command, tmp_path: Path) -> None:
    out = tmp_path / "pulses.parquet"
    assert icestream("event", "export", REAL_EVENTS, "--out", out)[0] == 0
    table = pq.read_table(out)
    assert table.num_rows == 948 + 635 + 1157 + 950 + 1781
    gold = table.filter(table["event_id"].to_numpy() == 7637140).to_pydict()
    pulses = read_realtime_event(GOLD).event.pulses
    assert gold["time_ns"] == pulses.time_ns.tolist()
    assert sum(gold["is_cleaned"]) == 1674
    assert np.sum(gold["is_hlc"]) == 1657
