"""Runs a network over many events of all lengths and puts the answers back in order."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from export.dataset import LabelledEvents, batches
from export.network.direction import DirectionNetwork, direction_and_kappa

BATCH_EVENTS = 64


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """One row per event."""

    directions: NDArray[np.float32]
    """Unit vectors; shape (n, 3)."""
    kappas: NDArray[np.float32]
    """Shape (n,)."""


@torch.no_grad()
def predict(network: DirectionNetwork, events: LabelledEvents) -> Answers:
    """Let a network answer for all events, in their order."""
    device = next(network.parameters()).device
    directions, kappas = np.empty((len(events), 3), np.float32), np.empty(len(events), np.float32)
    network.eval()
    for batch in batches(events, BATCH_EVENTS):
        p = network(torch.from_numpy(batch.pulses).to(device), torch.from_numpy(batch.lengths).to(device))
        direction, kappa = direction_and_kappa(p)
        directions[batch.rows], kappas[batch.rows] = direction.cpu().numpy(), kappa[:, 0].cpu().numpy()
    return Answers(directions, kappas)
