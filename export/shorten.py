"""Takes the last steps and the transformer off a trained network: `python -m export.shorten RUN --out SHORT_RUN`.

Every step of the chain of fits is trained on its own improvement, and passes no gradient back: its first steps are a
network of their own. Only the shower's steps notice, because they then start from a track of fewer steps. The result
is a run like any other, which `export.train` goes on with.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from export.checkpoint import RunSettings, new_state, read_settings, read_state, save, write_settings
from export.presets import PRESETS, NetworkShape

Weights = dict[str, Tensor]
CHAINS = sorted(preset.name for preset in PRESETS.values() if not preset.network.has_transformer)


def main() -> None:
    """Shorten a run by the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m export.shorten", description="Make a run of the first steps of another run's network."
    )
    parser.add_argument("run", type=Path, help="of a network with as many hidden channels and more steps")
    parser.add_argument("--preset", choices=CHAINS, default=CHAINS[0], help="what is to be left of it")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new run")
    arguments = parser.parse_args()
    try:
        shorten_run(arguments.run, arguments.preset, arguments.out)
    except ValueError as error:
        parser.error(str(error))


def shorten_run(run: Path, preset_name: str, out: Path) -> None:
    """Write a new run that stands where the old one does.

    Raises:
        ValueError: The old run's network does not begin with that of the preset.
    """
    old = read_settings(run)
    if not begins_with(old.preset.network, PRESETS[preset_name].network):
        raise ValueError(
            f"{run} holds a network of preset {old.preset_name}, which does not begin with {preset_name}"
        )
    long = read_state(run)
    settings = RunSettings(preset_name, old.seed, old.data, old.preset_name, round(long.elapsed_s / 60, 1))
    short = new_state(settings, torch.device("cpu"))
    short.network.load_state_dict(first_steps(short.network.state_dict(), long.network.state_dict()))
    short.average.load_state_dict(first_steps(short.average.state_dict(), long.average.state_dict()))
    short.n_steps, short.n_events, short.elapsed_s = long.n_steps, long.n_events, long.elapsed_s
    write_settings(settings, out)
    save(short, out)


def begins_with(long: NetworkShape, short: NetworkShape) -> bool:
    """Whether the one network's chain begins with all of the other network."""
    return (
        not short.has_transformer
        and short.n_hidden == long.n_hidden
        and short.n_track_steps <= long.n_track_steps
        and short.n_shower_steps <= long.n_shower_steps
    )


def first_steps(wanted: Weights, longer: Weights) -> Weights:
    """Those weights of a longer chain that a shorter one has.

    Where one layer holds the weights of all steps, these lie one below the other.
    """
    return {name: longer[name][: len(weight)] for name, weight in wanted.items()}


if __name__ == "__main__":
    main()
