import re
from io import StringIO

import pytest
from rich.console import Console

from icestream.cli.scan_progress import ScanBar, duration, rate, share_done
from icestream.v1 import scan_pb2
from tests.unit.cli.fake_scan_service import make_scan


def shown(*scans: scan_pb2.Scan, terminal: bool) -> str:
    file = StringIO()
    # A width of 80 is what terminals have.
    with ScanBar(Console(file=file, width=80, force_terminal=terminal)) as bar:
        for scan in scans:
            bar.show(scan)
            bar.say("a line [of] text")
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())


@pytest.mark.parametrize("terminal", [True, False])
def test_the_last_that_was_seen_stays(terminal: bool) -> None:
    text = shown(make_scan(), make_scan(n_done=30), terminal=terminal)
    last = text.splitlines()[-2:]
    assert re.match(r"running +━+.* +81% nside 4: 30/48 pixels, 40 fits/s, 1\.0 s left", last[0])
    assert last[1] == "best so far: RA 28.65° Dec -14.32°, -ln L 12.50"
    assert text.endswith("\n")
    assert text.count("a line [of] text") == 2


def test_without_a_scan_nothing_stays() -> None:
    assert shown(terminal=False) == ""


def test_a_queued_scan_has_no_best_direction() -> None:
    scan = scan_pb2.Scan(state=scan_pb2.SCAN_STATE_QUEUED, options=make_scan().options)
    [line, _] = [*shown(scan, terminal=False).splitlines()[-1:], ""]
    assert "best" not in line
    assert share_done(scan) == 0


def test_levels_that_have_not_begun_count_as_expected() -> None:
    scan = make_scan()
    del scan.progress.levels[1:]
    # 48 of 48 on the first level, and 12 * 4 are to come.
    assert share_done(scan) == pytest.approx(0.5)
    assert share_done(make_scan(n_done=48)) == 1.0


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (75.4, "75 s"), (3725.0, "1:02:05")]
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("per_s", "text"), [(0.123, "0.12"), (9.4, "9.4"), (1234.5, "1234")])
def test_rates_are_plain_numbers(per_s: float, text: str) -> None:
    assert rate(per_s) == text
