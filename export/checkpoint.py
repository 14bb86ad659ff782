"""What a training run leaves on disk, so that it can go on after a kill and be exported.

A run is a folder: `run.json` (what it is), `checkpoint.pt` (where it stands), `metrics.jsonl`, `curves.png`,
and `calibration.json` once it is calibrated.
"""

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from export.network.direction import DirectionNetwork
from export.presets import PRESETS, Preset

RUN_FILE = "run.json"
CHECKPOINT_FILE = "checkpoint.pt"
METRICS_FILE = "metrics.jsonl"
CURVES_FILE = "curves.png"
CALIBRATION_FILE = "calibration.json"
LOSS, ANGLE_LOSS = "loss", "angle_loss"
"""Names in the metrics: of the likelihood, and of the loss that ends a run."""


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What must not change between the start of a run and its resumption."""

    preset_name: str
    seed: int
    data: str | None = None
    """A data set in the Kaggle format; simulated events where there is none."""
    shortened_from: str | None = None
    """The preset as which the run began, before `export.shorten` took steps off its network,"""
    shortened_after_min: float | None = None
    """and how long it had been trained by then."""

    @property
    def preset(self) -> Preset:
        """The network and its plan."""
        return PRESETS[self.preset_name]


@dataclass(slots=True)
class TrainingState:
    """Everything that an optimiser step changes."""

    network: DirectionNetwork
    average: DirectionNetwork
    """Exponential moving average of the weights: the one that is validated, calibrated and exported."""
    optimizer: torch.optim.Optimizer
    n_steps: int = 0
    n_events: int = 0
    elapsed_s: float = 0.0
    """Time spent on steps, over all sittings; the learning rate follows it."""


def new_state(settings: RunSettings, device: torch.device) -> TrainingState:
    """Make an untrained network; its weights follow from the seed."""
    torch.manual_seed(settings.seed)
    network = DirectionNetwork(settings.preset.network).to(device)
    average = DirectionNetwork(settings.preset.network).to(device).requires_grad_(requires_grad=False)
    average.load_state_dict(network.state_dict())
    return TrainingState(network, average, _optimizer(network, settings.preset.plan.weight_decay))


def open_run(run: Path, settings: RunSettings, device: torch.device) -> TrainingState:
    """Start a run, or go on with it where its folder exists.

    Raises:
        ValueError: The folder holds a run with other settings.
    """
    if not (run / RUN_FILE).exists():
        write_settings(settings, run)
    found = read_settings(run)
    # Where its weights came from at first is the run's own business.
    if dataclasses.replace(found, shortened_from=None, shortened_after_min=None) != settings:
        raise ValueError(f"{run} holds a run with {found}, not with {settings}; choose another --out")
    state = new_state(settings, device)
    if (run / CHECKPOINT_FILE).exists():
        _restore(state, run / CHECKPOINT_FILE, device)
    _forget_metrics_after(state.n_steps, run / METRICS_FILE)
    return state


def write_settings(settings: RunSettings, run: Path) -> None:
    """Say in a folder, which is made where it does not exist, what its run is."""
    run.mkdir(parents=True, exist_ok=True)
    replace_file(run / RUN_FILE, json.dumps(dataclasses.asdict(settings), indent=2).encode())


def read_settings(run: Path) -> RunSettings:
    """Read what a run is."""
    return RunSettings(**json.loads((run / RUN_FILE).read_text()))


def read_state(run: Path) -> TrainingState:
    """Load where a run stands."""
    state = new_state(read_settings(run), torch.device("cpu"))
    _restore(state, run / CHECKPOINT_FILE, torch.device("cpu"))
    return state


def read_trained(run: Path) -> TrainingState:
    """Load where a run stands, with its averaged network as it is to be served."""
    state = read_state(run)
    state.average.exact().eval()
    return state


def save(state: TrainingState, run: Path) -> None:
    """Write the checkpoint; a kill at any time leaves the previous or the new one whole."""
    content = {
        "network": state.network.state_dict(),
        "average": state.average.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "progress": {"n_steps": state.n_steps, "n_events": state.n_events, "elapsed_s": state.elapsed_s},
    }
    temporary = run / f"{CHECKPOINT_FILE}.new"
    torch.save(content, temporary)
    os.replace(temporary, run / CHECKPOINT_FILE)


def _restore(state: TrainingState, path: Path, device: torch.device) -> None:
    content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    state.network.load_state_dict(content["network"])
    state.average.load_state_dict(content["average"])
    state.optimizer.load_state_dict(content["optimizer"])
    for name, value in content["progress"].items():
        setattr(state, name, value)


def _optimizer(network: nn.Module, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW that decays matrices only: biases and norms have no scale to lose."""
    parameters: list[Tensor] = list(network.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


def _forget_metrics_after(n_steps: int, path: Path) -> None:
    """Drop the lines of steps that a killed run took after its last checkpoint: they are taken again."""
    if path.exists():
        lines = path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= n_steps]
        replace_file(path, "".join(kept).encode())


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that a kill leaves the old or the new one whole."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_bytes(content)
    os.replace(temporary, path)
