from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from benchmarks.load import sample_events
from benchmarks.triton_runs import CONFIG_FILE, read_setting, shipped_folder
from benchmarks.trivial_model import (
    config_for,
    line_fit_model,
    model_file,
    write_shipped_repository,
    write_trivial_repository,
)
from export.canary import canary_inputs
from icestream.physics.detector import icecube86
from icestream.physics.features import FeatureArray, pad_batch, pulse_features
from icestream.ports import CallOptions
from icestream.runtime.canary import known_answers
from icestream.runtime.onnx_models import OnnxModels


def answers(features: list[FeatureArray], length: int) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(line_fit_model().SerializeToString())
    pulses, lengths = pad_batch(features, [len(rows) for rows in features], length)
    return list(session.run(["direction", "kappa", "error_radii"], {"pulses": pulses, "lengths": lengths}))


def test_the_direction_is_that_of_a_weighted_line_fit_whatever_the_padding() -> None:
    features = [pulse_features(event.pulses, icecube86()) for event in sample_events(20)]
    direction, kappa, radii = answers(features, 128)
    for rows, fitted in zip(features, direction, strict=True):
        x, t, charge = rows[:, :3].astype(np.float64), rows[:, 3].astype(np.float64), rows[:, 4]
        root = np.sqrt(charge)[:, None]
        design = root * np.column_stack([np.ones(len(t)), t])
        _, velocity = np.linalg.lstsq(design, root * x)[0]
        assert fitted == pytest.approx(-velocity / np.linalg.norm(velocity), abs=1e-3)
    assert kappa[:, 0].tolist() == [len(rows) for rows in features]
    assert (radii > 0).all()


def test_an_event_without_a_direction_gets_a_finite_one() -> None:
    direction, *_ = answers([np.zeros((1, 6), np.float32)], 16)
    assert direction[0].tolist() == [0.0, 0.0, 1.0]


async def test_both_repositories_serve_what_their_canaries_know(tmp_path: Path) -> None:
    for write in (write_trivial_repository, write_shipped_repository):
        repository = write(tmp_path / write.__name__, max_batch_size=64)
        [known] = known_answers(repository)
        assert model_file(repository).parent.name == known.version
        async with OnnxModels(repository, n_threads=1) as models:
            answer = await models.infer_tensors("direction", canary_inputs(), CallOptions(timeout_s=30.0))
        for name, expected in known.outputs.items():
            assert answer.tensors[name] == pytest.approx(expected, rel=known.tolerance, abs=known.tolerance)


@pytest.mark.parametrize("model", ["direction", "direction_fast"])
@pytest.mark.parametrize("max_batch_size", [1, 64])
def test_the_configuration_differs_from_the_shipped_one_in_name_and_batch_alone(
    model: str, max_batch_size: int
) -> None:
    shipped = read_setting((shipped_folder(model) / CONFIG_FILE).read_text())
    config = config_for(model, max_batch_size)
    assert read_setting(config) == replace(shipped, max_batch_size=max_batch_size)
    parsed = text_format.Parse(config, model_config_pb2.ModelConfig())
    assert parsed.name == "direction"
    # A server does not load a model that warms up with more than it takes.
    assert max(sample.batch_size for sample in parsed.model_warmup) <= max_batch_size
