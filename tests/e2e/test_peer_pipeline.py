"""The benchmark against the peer runs from end to end on real servers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.peer.pipeline import find_redis
from benchmarks.peer_pipeline import OURS, PEER, PLOT_FILE, RESULT_FILE
from icestream.errors import Misconfigured
from icestream.runtime.local_stack import CHECKOUT


@pytest.mark.timeout(900)
def test_a_quick_run_measures_both_pipelines_and_ours_loses_nothing(tmp_path: Path) -> None:
    try:
        find_redis()
    except Misconfigured as error:
        pytest.skip(str(error))
    command = [sys.executable, "-m", "benchmarks.peer_pipeline", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for title in ("drain of a prefilled queue", "latency under a Poisson process", "kill -9"):
        assert title in done.stdout
    result = json.loads((tmp_path / RESULT_FILE).read_text())
    assert [one["contender"]["side"] for one in result["rounds"]] == [PEER, OURS]
    for one in result["rounds"]:
        assert one["drained"]["seconds"] > 0
        assert one["drained"]["cpu_s"]["emitter"] > 0
        # Of the others so few events may take less than the clock of processes shows.
        assert {"broker", "model server"} < one["drained"]["cpu_s"].keys()
        assert one["drained"]["bytes_per_event"] > 100
        assert [found["rate"] for found in one["latencies"]] == [100.0, 500.0]
    [ours] = [one["accounted"] for one in result["killed"] if one["contender"]["side"] == OURS]
    assert (ours["n_kills"], ours["n_lost"], ours["n_duplicates"]) == (2, 0, 0)
    assert (tmp_path / PLOT_FILE).stat().st_size > 5000
