import asyncio
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from icestream.errors import DeadlineExceeded, Misconfigured, ModelFailed, UnknownModel
from icestream.physics.events import ModelVersion
from icestream.ports import CallOptions
from icestream.runtime.onnx_models import OnnxModels, model_names, newest_version
from tests.support.models import (
    POISON_LENGTH,
    add_model,
    mean_direction_model,
    model_inputs,
    random_batch,
    run_in_process,
)

OPTIONS = CallOptions()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx") / "repository"
    add_model(folder, "mean", mean_direction_model(), version=2)
    add_model(folder, "mean", mean_direction_model(kappa_scale=3.0), version=10)
    add_model(folder, "slow", mean_direction_model(n_slow_products=400))
    (folder / "empty" / "1").mkdir(parents=True)
    (folder / "damaged" / "1").mkdir(parents=True)
    (folder / "damaged" / "1" / "model.onnx").write_bytes(b"no model")
    (folder / "mean" / "11.unfinished").mkdir()
    return folder


def inputs(*, n_events: int = 3) -> dict[str, np.ndarray]:
    return dict(model_inputs(random_batch(np.random.default_rng(4), n_events=n_events, length=8)))


def test_the_repository_says_what_there_is(repository: Path) -> None:
    assert model_names(repository) == ["damaged", "mean", "slow"]
    assert newest_version(repository, "mean") == "10"
    assert newest_version(repository, "empty") is None
    assert model_names(repository / "nowhere") == []


async def test_the_newest_version_answers_as_onnxruntime_does(repository: Path) -> None:
    batch = random_batch(np.random.default_rng(4), n_events=3, length=8)
    expected = run_in_process(mean_direction_model(kappa_scale=3.0), batch)
    async with OnnxModels(repository, n_threads=2) as models:
        answer = await models.infer_tensors("mean", model_inputs(batch), OPTIONS)
        assert models.versions == [ModelVersion("mean", "10")]
    assert answer.model == ModelVersion("mean", "10")
    assert set(answer.tensors) == {"direction", "kappa", "error_radii"}
    for name, tensor in dict(expected).items():
        assert np.array_equal(answer.tensors[name], tensor)


async def test_calls_side_by_side_load_a_model_once_and_agree(repository: Path) -> None:
    async with OnnxModels(repository, n_threads=4) as models:
        answers = await asyncio.gather(*(models.infer_tensors("mean", inputs(), OPTIONS) for _ in range(8)))
    for answer in answers:
        assert np.array_equal(answer.tensors["kappa"], answers[0].tensors["kappa"])


async def test_an_unknown_model_is_told_with_those_that_there_are(repository: Path) -> None:
    async with OnnxModels(repository, n_threads=1) as models:
        for name in ("nope", "empty"):
            with pytest.raises(UnknownModel, match="available: damaged, mean, slow"):
                await models.infer_tensors(name, inputs(), OPTIONS)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pulses": np.zeros((3, 8, 6))}, "tensor\\(double\\)"),
        ({"lengths": np.zeros((3, 1), np.int64)}, "tensor\\(int64\\)"),
        ({"pulses": np.zeros((3, 8, 5), np.float32)}, "invalid dimensions"),
        ({"lengths": np.full((3, 1), POISON_LENGTH, np.int32)}, "out of data bounds"),
        ({"more": np.zeros(1, np.float32)}, "Invalid input name"),
    ],
)
async def test_inputs_are_not_made_to_fit(
    repository: Path, changes: dict[str, np.ndarray], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    async with OnnxModels(repository, n_threads=1) as models:
        with pytest.raises(ModelFailed, match=words):
            await models.infer_tensors("mean", inputs() | changes, OPTIONS)
    assert capfd.readouterr().err == ""


async def test_a_missing_input_is_a_failure(repository: Path) -> None:
    async with OnnxModels(repository, n_threads=1) as models:
        with pytest.raises(ModelFailed, match="Required inputs"):
            await models.infer_tensors("mean", {"pulses": inputs()["pulses"]}, OPTIONS)


async def test_a_damaged_file_is_named(repository: Path) -> None:
    async with OnnxModels(repository, n_threads=1) as models:
        with pytest.raises(Misconfigured, match=r"damaged/1/model.onnx cannot be loaded"):
            await models.infer_tensors("damaged", inputs(), OPTIONS)


async def test_a_late_run_is_ended(repository: Path) -> None:
    started_s = time.perf_counter()
    async with OnnxModels(repository, n_threads=1) as models:
        with pytest.raises(DeadlineExceeded, match=r"0.3 s"):
            await models.infer_tensors("slow", inputs(n_events=1), CallOptions(timeout_s=0.3))
    # The whole run takes seconds; the threads are waited for.
    assert time.perf_counter() - started_s < 1.5


async def test_without_onnxruntime_the_way_out_is_named(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    async with OnnxModels(repository, n_threads=1) as models:
        with pytest.raises(Misconfigured, match=r"pip install 'icestream\[local\]'"):
            await models.infer_tensors("mean", inputs(), OPTIONS)
