"""Trains the `direction` network: `python -m export.train --preset tiny --minutes 15 --out RUN`.

Started again with the same `--out`, a run goes on where its last checkpoint stands, with the events that follow.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.checkpoint import ANGLE_LOSS, LOSS, METRICS_FILE, RunSettings, TrainingState, open_run, save
from export.command import plain_errors
from export.curves import draw_curves
from export.dataset import (
    RESERVED_SEEDS,
    TRAINING_SEED,
    VALIDATION_SEED,
    Batch,
    Chunk,
    ChunkShape,
    ChunkSource,
    KaggleChunks,
    LabelledEvents,
    SimulatedChunks,
    held_out_events,
    simulated_events,
)
from export.losses import training_loss
from export.network.direction import DirectionNetwork
from export.predict import predict
from export.presets import PRESETS, TrainingPlan
from icestream.physics.directions import opening_angles_rad

WARM_UP = 0.03
"""Share of the time in which the learning rate rises to its peak,"""
WARM_UP_STEPS = 60
"""but not in fewer steps than these."""
LAST_RATE = 0.01
"""Learning rate at the end, in units of its peak."""
ANGLE_FROM = 0.8
"""Share of the time after which the angle itself is what is made small. Source: IceMix."""
N_VALIDATION = 2048


@dataclass(frozen=True, slots=True)
class Budget:
    """How long a run may take, and how often it reports."""

    total_s: float
    report_every_s: float = 10.0
    checkpoint_every_s: float = 120.0


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one optimiser step tells."""

    loss: float
    learning_rate: float
    gradient_norm: float


@plain_errors()
def main() -> None:
    """Train by the command line."""
    arguments = _parser().parse_args()
    if arguments.seed in RESERVED_SEEDS:
        raise SystemExit(f"seed {arguments.seed} is kept for validation, calibration or test; choose another")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = choose_device(arguments.device)
    data = str(arguments.data.resolve()) if arguments.data else None
    settings = RunSettings(arguments.preset, arguments.seed, data)
    # Before the run's folder appears: a data set that is none must leave nothing behind.
    validation = (
        held_out_events(arguments.data, N_VALIDATION)
        if data
        else simulated_events(VALIDATION_SEED, 0, N_VALIDATION)
    )
    state = open_run(arguments.out, settings, device)
    print(
        f"{settings.preset_name} on {device}: {state.n_events} events seen, {state.elapsed_s / 60:.1f} min spent"
    )
    budget = Budget(arguments.minutes * 60, checkpoint_every_s=arguments.checkpoint_every)
    train(state, settings, _source(settings, arguments.workers), validation, budget, arguments.out)


def choose_device(name: str) -> torch.device:
    """Find the device of a name, where `auto` is CUDA if there is any."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def train(
    state: TrainingState,
    settings: RunSettings,
    source: ChunkSource,
    validation: LabelledEvents,
    budget: Budget,
    run: Path,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Take steps until the budget is spent, leaving checkpoints, metrics and curves in the run's folder.

    Args:
        state: Where to go on from; it is changed in place.
        settings: Of the run.
        source: Its chunk i feeds step i.
        validation: Events that are not trained on.
        budget: Counts the time of earlier sittings too.
        run: An existing folder.
        clock: Returns seconds; only differences matter.
    """
    reported_s = saved_s = state.elapsed_s
    with closing(source.chunks(state.n_steps)) as chunks:
        # The workers' start is not training either.
        chunk = next(chunks)
        before_s = clock()
        while state.elapsed_s < budget.total_s:
            progress = state.elapsed_s / budget.total_s
            result = step(state, chunk, settings.preset.plan, progress=progress)
            now_s = clock()
            state.elapsed_s += now_s - before_s
            before_s = now_s
            if state.elapsed_s - reported_s >= budget.report_every_s:
                loss = ANGLE_LOSS if is_of_angle(progress) else LOSS
                _report(run, state, budget, {loss: result.loss, "learning_rate": result.learning_rate})
                reported_s = state.elapsed_s
            if state.elapsed_s - saved_s >= budget.checkpoint_every_s:
                _validate_and_save(run, state, budget, validation)
                # Validation is not training: its time does not count.
                saved_s, before_s = state.elapsed_s, clock()
            chunk = next(chunks)
    _validate_and_save(run, state, budget, validation)


def step(state: TrainingState, chunk: Chunk, plan: TrainingPlan, *, progress: float) -> StepResult:
    """Take one optimiser step on all events of a chunk.

    Args:
        state: It is changed in place.
        chunk: Its batches share one gradient, so that every step sees the whole mix of lengths.
        plan: Of the preset.
        progress: Share of the budget that is spent, from 0 to 1.
    """
    rate = plan.peak_learning_rate * rate_factor(progress) * min((state.n_steps + 1) / WARM_UP_STEPS, 1.0)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    n_events = sum(len(batch.rows) for batch in chunk)
    state.network.train()
    state.optimizer.zero_grad()
    loss = sum(_add_gradient(state.network, batch, n_events, progress) for batch in chunk)
    # Each part has losses of its own: a large gradient of one must not hold up the other.
    parts = (state.network.refinement, state.network.transformer)
    norm = max(_clip_gradient(part, plan.max_gradient_norm) for part in parts if part is not None)
    # One broken event must not end a run of hours: its step is left out.
    if math.isfinite(norm):
        state.optimizer.step()
        _move_average(state, plan.ema_decay)
    state.n_steps += 1
    state.n_events += n_events
    return StepResult(loss, rate, norm)


def rate_factor(progress: float) -> float:
    """Learning rate in units of its peak: a linear rise, then a cosine."""
    if progress < WARM_UP:
        return (progress + 1e-3) / (WARM_UP + 1e-3)
    falling = min((progress - WARM_UP) / (1 - WARM_UP), 1.0)
    return LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * falling))


def is_of_angle(progress: float) -> bool:
    """Whether the loss is one of the angle by then; its values do not compare with those before."""
    return progress >= ANGLE_FROM


def _add_gradient(network: DirectionNetwork, batch: Batch, n_events: int, progress: float) -> float:
    device = next(network.parameters()).device
    # Measured: bfloat16 pays on a GPU, not at these widths on a CPU.
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        estimates = network.estimates(_on(device, batch.pulses), _on(device, batch.lengths))
    truth = _on(device, batch.directions)
    loss = training_loss(estimates, truth, of_angle=is_of_angle(progress)).sum() / n_events
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())


def _clip_gradient(part: nn.Module, max_norm: float) -> float:
    """Shorten a part's gradient to at most `max_norm`; returns its length before."""
    return float(nn.utils.clip_grad_norm_(part.parameters(), max_norm))


def _on(device: torch.device, array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(array).to(device, non_blocking=True)


def _move_average(state: TrainingState, decay: float) -> None:
    # Short runs average over fewer steps, else the untrained weights would stay in.
    decay = min(decay, (1 + state.n_steps) / (10 + state.n_steps))
    averages = tuple(state.average.parameters())
    weights = tuple(p.detach() for p in state.network.parameters())
    torch._foreach_lerp_(averages, weights, 1 - decay)


def _validate_and_save(run: Path, state: TrainingState, budget: Budget, validation: LabelledEvents) -> None:
    save(state, run)
    answer = predict(state.average, validation)
    angles = np.degrees(opening_angles_rad(answer.directions, validation.directions))
    scores = {"validation_median_deg": float(np.median(angles)), "validation_mean_deg": float(angles.mean())}
    _report(run, state, budget, scores)
    draw_curves(run)


def _report(run: Path, state: TrainingState, budget: Budget, values: dict[str, float]) -> None:
    """Append a line to the metrics and say the same on the terminal."""
    line = {"step": state.n_steps, "events": state.n_events, "elapsed_s": round(state.elapsed_s, 2), **values}
    with (run / METRICS_FILE).open("a") as metrics:
        metrics.write(json.dumps(line) + "\n")
    rate = state.n_events / max(state.elapsed_s, 1e-9)
    shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
    minutes = f"{state.elapsed_s / 60:6.1f}/{budget.total_s / 60:.0f} min"
    print(
        f"{minutes}  step {state.n_steps:7d}  {state.n_events:10d} events  {rate:6.0f}/s  {shown}", flush=True
    )


def _source(settings: RunSettings, n_workers: int) -> ChunkSource:
    plan = settings.preset.plan
    shape = ChunkShape(plan.step_events, plan.batch_events, plan.cuts)
    if settings.data:
        return KaggleChunks(shape, Path(settings.data))
    return SimulatedChunks(shape, settings.seed, n_workers)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.train", description="Train the direction network."
    )
    parser.add_argument("--preset", choices=sorted(PRESETS), required=True)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--minutes", type=float, required=True, help="time for training, all sittings together"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; resumed where it exists")
    parser.add_argument("--data", type=Path, help="data set in the Kaggle format instead of simulated events")
    parser.add_argument("--seed", type=int, default=TRAINING_SEED)
    parser.add_argument(
        "--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1), help="processes that simulate"
    )
    parser.add_argument("--threads", type=int, help="CPU threads of torch")
    parser.add_argument("--checkpoint-every", type=float, default=120.0, metavar="SECONDS")
    return parser


if __name__ == "__main__":
    main()
