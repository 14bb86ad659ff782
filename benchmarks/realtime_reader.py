"""How many realtime messages a second one core reads.

    python -m benchmarks.realtime_reader FOLDER [--out DIR]

Reads the messages of a folder again and again, each from its file to its pulses with all checksums checked. There is
no reference to compare with: IceTray, which alone reads this format otherwise, is not to be had as a package.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.machine import Machine, this_machine
from icestream.readers.realtime import read_realtime_event, realtime_files

TARGET_PER_S = 20.0
"""Messages per second on one core that the project asks for."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Messages of one file per second, one number for each run."""

    name: str
    n_bytes: int
    n_pulses: int
    per_cpu_s: list[float]
    """By the processor time of this process, which runs on one core: hardly changed by other processes."""
    per_s: list[float]
    """By the clock."""


def measure(files: list[Path], n_reads: int, n_runs: int) -> list[Rate]:
    """Read each file so many times in each run, the files in turn, so that all meet the same disturbances."""
    rates = [
        Rate(file.name, file.stat().st_size, len(read_realtime_event(file).event.pulses), [], [])
        for file in files
    ]
    for _ in range(n_runs):
        for file, rate in zip(files, rates, strict=True):
            cpu_s, clock_s = time.process_time(), time.perf_counter()
            for _ in range(n_reads):
                read_realtime_event(file)
            rate.per_cpu_s.append(n_reads / (time.process_time() - cpu_s))
            rate.per_s.append(n_reads / (time.perf_counter() - clock_s))
    return rates


def table(rates: list[Rate]) -> str:
    """The rates as lines of text."""
    lines = [
        f"{'messages/s on one core':38} {'kB':>5} {'pulses':>6} {'minimum':>8} {'median':>8} {'maximum':>8}"
    ]
    for rate in rates:
        low, middle, high = np.quantile(rate.per_cpu_s, (0.0, 0.5, 1.0))
        lines.append(
            f"{rate.name:38} {rate.n_bytes / 1e3:5.0f} {rate.n_pulses:6d} {low:8.1f} {middle:8.1f} {high:8.1f}"
        )
    slowest = min(float(np.median(rate.per_s)) for rate in rates)
    lines.append(f"by the clock, median of the slowest file: {slowest:.1f}; asked for: {TARGET_PER_S:.0f}")
    return "\n".join(lines)


def write(out: Path, machine: Machine, rates: list[Rate]) -> None:
    """Write realtime_reader.json."""
    out.mkdir(parents=True, exist_ok=True)
    runs = {rate.name: {"per_cpu_s": rate.per_cpu_s, "per_s": rate.per_s} for rate in rates}
    result = {"machine": machine.as_dict(), "runs": runs}
    (out / "realtime_reader.json").write_text(json.dumps(result, indent=2) + "\n")


def main() -> None:
    """Measure, print, and write where that is asked for."""
    parser = argparse.ArgumentParser(prog="benchmarks.realtime_reader", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="a realtime message, or a folder of them")
    parser.add_argument("--reads", type=int, default=20, help="of each file per run (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=7, help="runs (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="folder for realtime_reader.json")
    arguments = parser.parse_args()

    machine = this_machine()
    rates = measure(realtime_files(arguments.folder), arguments.reads, arguments.runs)
    print(machine)
    print(f"{arguments.runs} runs of {arguments.reads} reads of each file; processor time")
    print(table(rates))
    if arguments.out is not None:
        write(arguments.out, machine, rates)


if __name__ == "__main__":
    main()
