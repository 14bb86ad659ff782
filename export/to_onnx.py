"""Puts a trained network into a Triton model repository: `python -m export.to_onnx RUN --model direction`.

A version is a folder that appears whole or not at all, because a server may be watching: `model.onnx`,
`model_card.json` (where it comes from and what it is worth) and `canary.json` (a question with its known answer).
"""

import argparse
import hashlib
import json
import tempfile
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import nn

from export.calibrate import LEVELS, Calibration, calibration_of
from export.canary import make_canary
from export.checkpoint import RunSettings, TrainingState, read_settings, read_trained
from export.command import plain_errors
from export.parity import parity
from export.served_network import ServedDirection
from icestream.physics.features import MAX_MODEL_PULSES, N_FEATURES

MODEL_NAME = "direction"
MODEL_FILE = "model.onnx"
CARD_FILE = "model_card.json"
CANARY_FILE = "canary.json"
INPUTS = ("pulses", "lengths")
OUTPUTS = ("direction", "kappa", "error_radii")
OPSET = 18


@plain_errors()
def main() -> None:
    """Export by the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m export.to_onnx", description="Export a run as a Triton version."
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--model", default=MODEL_NAME, help="name of the model in the repository")
    parser.add_argument("--version", type=int, help="replaces this version; the next free one without it")
    arguments = parser.parse_args()
    folder = export_run(arguments.run, arguments.repository / arguments.model, arguments.version)
    print(f"{folder}: {(folder / MODEL_FILE).stat().st_size / 1e6:.2f} MB")


def export_run(run: Path, model_folder: Path, version: int | None = None) -> Path:
    """Write a run's averaged network as a version of a model.

    Args:
        run: It is calibrated first where it is not.
        model_folder: Of the repository; made where it does not exist.
        version: To be replaced, or None for the next.

    Returns:
        The version's folder.
    """
    trained = read_trained(run)
    calibration = calibration_of(run, trained.n_events)
    served = ServedDirection(trained.average, calibration)
    graph = export_graph(served)
    version = next_version(model_folder) if version is None else version
    card = {
        "version": version,
        **model_card(model_folder.name, read_settings(run), trained, calibration, graph),
        "torch_to_onnx": parity(served, graph),
    }
    return publish(
        model_folder,
        version,
        {
            MODEL_FILE: graph,
            CARD_FILE: _json(card),
            CANARY_FILE: _json(make_canary(graph)),
        },
    )


def export_graph(model: nn.Module) -> bytes:
    """Translate a model into one ONNX file with free batch size and length."""
    # Sizes that no two dimensions share, so that the exporter cannot take one for another.
    example = (
        torch.ones(2, 17, N_FEATURES, dtype=torch.float32),
        torch.tensor([[5], [17]], dtype=torch.int32),
    )
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    with warnings.catch_warnings():
        # Of the exporter itself, on code of torch; nothing here can avoid them.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="(torch|onnx|copyreg)")
        warnings.filterwarnings("ignore", category=FutureWarning, module="(torch|onnx|copyreg)")
        # Both inputs share the axis on purpose.
        warnings.filterwarnings(
            "ignore", message="# The axis name: batch will not be used", category=UserWarning
        )
        program = torch.onnx.export(
            model.eval(),
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamic_shapes=({0: batch, 1: length}, {0: batch}),
            verbose=False,
        )
    assert program is not None
    graph: bytes = without_traces(program.model_proto).SerializeToString()
    return graph


def next_version(model_folder: Path) -> int:
    """One more than the highest version that holds a model."""
    taken = [
        int(path.parent.name) for path in model_folder.glob(f"*/{MODEL_FILE}") if path.parent.name.isdecimal()
    ]
    return max(taken, default=0) + 1


def publish(model_folder: Path, version: int, files: dict[str, bytes]) -> Path:
    """Write a version's files beside the others and let it appear by a rename."""
    model_folder.mkdir(parents=True, exist_ok=True)
    # Triton takes folders whose name is a number for versions, and no others.
    with tempfile.TemporaryDirectory(prefix=".new-", dir=model_folder) as temporary:
        written = Path(temporary) / "version"
        written.mkdir()
        for name, content in files.items():
            (written / name).write_bytes(content)
        folder = model_folder / str(version)
        if folder.exists():
            folder.rename(Path(temporary) / "replaced")
        written.rename(folder)
    return folder


def model_card(
    name: str, settings: RunSettings, trained: TrainingState, calibration: Calibration, graph: bytes
) -> dict[str, Any]:
    """Say where a model comes from and what it holds."""
    return {
        "model": name,
        "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "preset": settings.preset_name,
        "n_parameters": sum(p.numel() for p in trained.average.parameters()),
        "max_pulses": MAX_MODEL_PULSES,
        "batch_events": settings.preset.batch_events,
        "training": {
            "data": settings.data or "icestream.physics.simulation",
            "seed": settings.seed,
            "events_seen": trained.n_events,
            "minutes": round(trained.elapsed_s / 60, 1),
            "shortened_from": settings.shortened_from,
            "shortened_after_min": settings.shortened_after_min,
        },
        "calibration": {
            "levels": LEVELS,
            "n_events": calibration.n_events,
            "log_kappa": calibration.log_kappa,
            "log_radii_rad": calibration.log_radii,
        },
        "sha256": hashlib.sha256(graph).hexdigest(),
        "size_bytes": len(graph),
        "made_with": {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__, "opset": OPSET},
    }


def without_traces(model: Any) -> Any:  # a message of protobuf, whose fields onnx does not type
    """Drop the exporter's notes on where each node came from: a third of a small model, and paths of this machine."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    del model.graph.value_info[:]
    return model


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


if __name__ == "__main__":
    main()
