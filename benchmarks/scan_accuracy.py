"""How near a sky scan comes to the truth, and how often its contours hold it: `python -m benchmarks.scan_accuracy`.

Through-going tracks above 1 TeV with at least 25 HLC modules, simulated; each scanned in this process at the default
resolutions. The truth's own llh comes from the same fit as the finest pixels'. Contour levels are set on one sample
and tested on others, also with the ice clearer and dustier than the likelihood believes. The robust line fit and the
`direction` model see the same events.
"""

import argparse
import asyncio
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # No display is needed; the choice must come before pyplot is imported.

import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.machine import this_machine
from icestream.errors import InvalidEvent
from icestream.physics.detector import icecube86
from icestream.physics.directions import opening_angles_rad, unit_vectors
from icestream.physics.events import Event, EventKind
from icestream.physics.features import pad_batch, pulse_features
from icestream.physics.linefit import robust_line_fit
from icestream.physics.simulation import SimulationSettings, simulate
from icestream.ports import CallOptions
from icestream.runtime.onnx_models import OnnxModels
from icestream.scan_acceptance import accepted_request
from icestream.scans.pixels import PixelBatch
from icestream.scans.progression import DEFAULT_PROGRESSION
from icestream.scans.recos import registry
from icestream.scans.recos.reco import Reco
from icestream.scans.request import Frame, ScanOptions
from icestream.scans.state import FloatArray
from icestream.scans.sweep import scan_in_process

CALIBRATION_SEED, TEST_SEED, CLEAR_SEED, DUSTY_SEED = 930_001, 930_002, 930_003, 930_004
CLARITIES = {CLEAR_SEED: 1.1, DUSTY_SEED: 0.9}
MIN_MODULES = 25
MIN_TRACK_GEV = 1e3
CONTAINMENTS = (0.5, 0.9)
WILKS = (1.39, 4.61)
RESULT_FILE = "scan_accuracy.json"
PLOT_FILE = "scan_accuracy.png"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one event; angles to the truth in deg."""

    seed: int
    index: int
    kind: str
    energy_gev: float
    n_hits: int
    scan_deg: float
    line_fit_deg: float
    direction_model_deg: float
    two_delta_llh: float
    """Of the truth against the best pixel."""
    hypothesis: str
    n_pixels: int


def main() -> None:
    """Measure by the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scan_accuracy", description=__doc__)
    parser.add_argument("--events", type=int, default=400, help="of each sample")
    parser.add_argument("--reco", default="track_mpe")
    parser.add_argument(
        "--kind", choices=[kind.name.lower() for kind in EventKind], default="through_going_track"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scan_accuracy"))
    parser.add_argument(
        "--only-test", action="store_true", help="leave the calibration and the other ice out"
    )
    arguments = parser.parse_args()
    console = Console()
    console.print(str(this_machine()))
    kind = EventKind[arguments.kind.upper()]
    seeds = (TEST_SEED,) if arguments.only_test else (CALIBRATION_SEED, TEST_SEED, CLEAR_SEED, DUSTY_SEED)
    samples = asyncio.run(
        _samples(seeds, arguments.events, kind, arguments.reco, arguments.repository, arguments.threads)
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    content = {str(seed): [asdict(outcome) for outcome in outcomes] for seed, outcomes in samples.items()}
    (arguments.out / RESULT_FILE).write_text(json.dumps(content, indent=1) + "\n")
    console.print(accuracy_table(samples[TEST_SEED]))
    if CALIBRATION_SEED in samples:
        levels = calibrated_levels(samples[CALIBRATION_SEED])
        console.print(coverage_table(samples, levels))
        _draw(samples, levels, arguments.out / PLOT_FILE)


def accuracy_table(outcomes: Sequence[Outcome]) -> Table:
    """Distances to the truth by method."""
    table = Table("method", "events", "median deg", "mean deg", "within 1 deg", "beyond 10 deg")
    for name in ("scan_deg", "direction_model_deg", "line_fit_deg"):
        angles = np.array([getattr(outcome, name) for outcome in outcomes])
        table.add_row(
            name.removesuffix("_deg").replace("_", " "),
            str(len(angles)),
            f"{np.median(angles):.2f}",
            f"{angles.mean():.2f}",
            f"{np.mean(angles < 1):.1%}",
            f"{np.mean(angles > 10):.1%}",
        )
    return table


def calibrated_levels(outcomes: Sequence[Outcome]) -> tuple[float, ...]:
    """The 2 delta llh that hold the truth as often as they should in this sample."""
    values = [outcome.two_delta_llh for outcome in outcomes]
    return tuple(float(np.quantile(values, containment)) for containment in CONTAINMENTS)


def coverage_table(samples: Mapping[int, Sequence[Outcome]], levels: Sequence[float]) -> Table:
    """How often contours hold the truth, sample by sample."""
    table = Table("sample", "events", "contour", "2 delta llh", "asked", "holds the truth", "3 sigma")
    for seed, outcomes in samples.items():
        values = np.array([outcome.two_delta_llh for outcome in outcomes])
        for method, pair in (("wilks", WILKS), ("calibrated", levels)):
            for level, q in zip(pair, CONTAINMENTS, strict=True):
                noise = 3 * math.sqrt(q * (1 - q) / len(values))
                table.add_row(
                    _name(seed), str(len(values)), method, f"{level:.2f}", f"{q:.0%}",
                    f"{np.mean(values <= level):.1%}", f"{noise:.1%}",
                )  # fmt: skip
    return table


def _name(seed: int) -> str:
    names = {CALIBRATION_SEED: "calibration", TEST_SEED: "test"}
    return names.get(seed) or f"ice x {CLARITIES[seed]:g}"


async def _samples(
    seeds: Sequence[int], n_events: int, kind: EventKind, reco_name: str, repository: Path, n_threads: int
) -> dict[int, list[Outcome]]:
    reco = registry.get(reco_name)
    async with OnnxModels(repository, n_threads=n_threads) as models:
        return {
            seed: await _outcomes(_choose(seed, n_events, kind), reco, models, n_threads, seed)
            for seed in seeds
        }


async def _outcomes(
    events: Iterator[Event], reco: Reco, models: OnnxModels, n_at_once: int, seed: int
) -> list[Outcome]:
    """Scan several events at once, so that all threads of the models are busy."""
    outcomes: list[Outcome] = []

    async def work() -> None:
        for event in progress:
            # An event with too few hits after cleaning is none of the class.
            with suppress(InvalidEvent):
                outcomes.append(await _scan(event, reco, models))

    progress = iter(track(list(events), description=_name(seed)))
    async with asyncio.TaskGroup() as group:
        for _ in range(n_at_once):
            group.create_task(work())
    return sorted(outcomes, key=lambda outcome: outcome.index)


def _choose(seed: int, n_events: int, kind: EventKind) -> Iterator[Event]:
    """The first events of the class."""
    n_found = 0
    for event in simulate(icecube86(), seed=seed, settings=_settings(seed)):
        if is_chosen(event, kind):
            n_found += 1
            yield event
            if n_found == n_events:
                return


def is_chosen(event: Event, kind: EventKind) -> bool:
    """Whether an event is of the declared class."""
    truth = event.truth
    assert truth is not None
    n_modules = len(np.unique(event.pulses.sensor_id[event.pulses.is_hlc]))
    is_energetic = kind is EventKind.CASCADE or (truth.energy_gev or 0.0) > MIN_TRACK_GEV
    return truth.kind is kind and n_modules >= MIN_MODULES and is_energetic


def _settings(seed: int) -> SimulationSettings:
    return SimulationSettings(ice_clarity=CLARITIES.get(seed, 1.0))


async def _scan(event: Event, reco: Reco, models: OnnxModels) -> Outcome:
    detector, truth, options = icecube86(), event.truth, CallOptions(timeout_s=600.0)
    assert truth is not None
    prepared = reco.prepare(event, detector)
    # In the detector's frame: for accuracy the orientation of the grid does not matter.
    options_of_scan = ScanOptions(reco.name, DEFAULT_PROGRESSION)
    request = accepted_request(
        str(event.id), event, options_of_scan, reco, prepared, Frame.DETECTOR, created_unix_ns=0
    )
    state = await scan_in_process(request, reco, prepared, models, _unchanged, options)
    best = state.best
    assert best is not None
    true = unit_vectors(truth.azimuth_rad, truth.zenith_rad)
    seeds = np.append(best.position_m, best.time_ns)[None, None]
    nowhere = np.zeros(1, np.int64)
    at_truth = await reco.fit(
        PixelBatch(0, best.nside, nowhere, nowhere, true[None], seeds), prepared, models, options
    )
    features = pulse_features(event.pulses, detector)
    pulses, lengths = pad_batch([features], [len(event.pulses)], len(features))
    answer = await models.infer_tensors("direction", {"pulses": pulses, "lengths": lengths}, options)
    return Outcome(
        seed=event.id.run_id,
        index=event.id.event_id,
        kind=truth.kind.name.lower(),
        energy_gev=truth.energy_gev or math.nan,
        n_hits=len(np.unique(event.pulses.sensor_id[event.pulses.is_hlc])),
        scan_deg=_degrees(best.direction, true),
        line_fit_deg=_degrees(robust_line_fit(event.pulses, detector), true),
        direction_model_deg=_degrees(answer.tensors["direction"][0], true),
        two_delta_llh=float(2 * (at_truth.llh[0] - best.llh)),
        hypothesis=reco.hypotheses[best.hypothesis],
        n_pixels=state.n_fits_done,
    )


def _unchanged(vectors: FloatArray) -> FloatArray:
    return vectors


def _degrees(found: NDArray[np.floating], true: FloatArray) -> float:
    return float(np.degrees(opening_angles_rad(found, true)))


def _draw(samples: Mapping[int, Sequence[Outcome]], levels: Sequence[float], path: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for name in ("scan_deg", "direction_model_deg", "line_fit_deg"):
        angles = np.sort([getattr(outcome, name) for outcome in samples[TEST_SEED]])
        left.step(
            angles,
            np.arange(1, len(angles) + 1) / len(angles),
            label=name.removesuffix("_deg").replace("_", " "),
        )
    left.set(xscale="log", xlabel="angle to the truth (deg)", ylabel="share of events", xlim=(0.03, 180))
    left.legend()
    grid = np.linspace(0, 30, 301)
    for seed, outcomes in samples.items():
        values = np.array([outcome.two_delta_llh for outcome in outcomes])
        right.plot(grid, [np.mean(values <= level) for level in grid], label=_name(seed))
    right.plot(grid, 1 - np.exp(-grid / 2), "k:", label="Wilks, 2 degrees of freedom")
    for level in levels:
        right.axvline(level, color="0.7", zorder=0)
    right.set(xlabel="2 delta llh of the contour", ylabel="share of events whose truth it holds", ylim=(0, 1))
    right.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
