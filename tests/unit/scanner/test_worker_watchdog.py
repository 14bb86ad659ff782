import subprocess
import sys

PROGRAM = """
import asyncio, time
from services.scanner.worker.watchdog import ended_at_standstill

async def main():
    async with ended_at_standstill(after_s=0.6):
        await asyncio.sleep(0.8)
        print("alive", flush=True)
        {inside}
    {outside}

asyncio.run(main())
"""


def run(*, inside: str, outside: str) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(inside=inside, outside=outside)
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=False
    )


def test_a_process_that_stands_still_ends_and_says_where() -> None:
    process = run(inside="time.sleep(15)", outside="pass")
    assert (process.returncode, process.stdout) == (1, "alive\n")
    assert "Timeout" in process.stderr
    assert "in main" in process.stderr


def test_the_watch_ends_with_its_block() -> None:
    process = run(inside="pass", outside="time.sleep(0.9)")
    assert (process.returncode, process.stdout, process.stderr) == (0, "alive\n", "")
