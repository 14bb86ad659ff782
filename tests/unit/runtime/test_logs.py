"""What a service writes to standard error, and what it never writes."""

import subprocess
import sys

import pytest

FAILING = """
import structlog
from icestream.runtime.logs import configure_logs

def log_in(seed):
    raise ValueError("refused")

configure_logs("toy", "toy-1", level="info", log_format={log_format!r})
try:
    log_in("of-all-" + "secrets")
except ValueError:
    structlog.get_logger().exception("login failed")
"""


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_traceback_says_where_it_happened_and_not_with_which_values(log_format: str) -> None:
    # A process of its own, because logging is set up for a whole process.
    run = subprocess.run(
        [sys.executable, "-c", FAILING.format(log_format=log_format)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "login failed" in run.stderr
    assert "in log_in" in run.stderr
    assert "ValueError: refused" in run.stderr
    assert "of-all-secrets" not in run.stderr
