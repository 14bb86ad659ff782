"""How far an exported file is from the network that it was made of."""

import numpy as np
import torch

from export.dataset import VALIDATION_SEED, LabelledEvents, batches, simulated_events
from export.served import answer, open_session
from export.served_network import ServedDirection

N_EVENTS = 1000


def parity(model: ServedDirection, graph: bytes, events: LabelledEvents | None = None) -> dict[str, float]:
    """Ask torch and onnxruntime the same.

    Args:
        model: What was exported.
        graph: The file.
        events: To ask about; `N_EVENTS` simulated ones where it is None.

    Returns:
        The largest difference of any event, by output; that of kappa relative to kappa itself.
    """
    events = events or simulated_events(VALIDATION_SEED, 0, N_EVENTS)
    answers = answer(open_session(graph), events)
    expected = np.empty((len(events), 6))
    with torch.no_grad():
        for batch in batches(events, 64):
            outputs = model(torch.from_numpy(batch.pulses), torch.from_numpy(batch.lengths))
            expected[batch.rows] = np.concatenate([output.numpy() for output in outputs], axis=1)
    return {
        "n_events": len(events),
        "direction": float(np.abs(answers.directions - expected[:, :3]).max()),
        "kappa": float(np.abs(answers.kappas / expected[:, 3] - 1).max()),
        "error_radii": float(np.abs(answers.radii_rad - expected[:, 4:]).max()),
    }
