"""Checks before the start, and nothing left after the end."""

from pathlib import Path

import numpy as np
import psutil
import pytest

from icestream.errors import Misconfigured
from icestream.ports import CallOptions
from icestream.runtime import tritonserver
from icestream.runtime.triton import TritonModel
from icestream.runtime.tritonserver import (
    SHARED_MEMORY,
    check_model_repository,
    find_libpython,
    find_wheel,
    prepare_tritonserver,
    sweep_shared_memory,
)
from tests.support.eventually import eventually
from tests.support.models import add_model, direction_config, mean_direction_model, random_batch
from tests.support.triton_server import free_ports, running_triton


def shared_memory(prefix: str) -> list[str]:
    return sorted(path.name for path in SHARED_MEMORY.iterdir() if path.name.startswith(prefix))


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


async def test_a_killed_server_leaves_nothing_after_the_sweep(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    add_model(repository, "direction", mean_direction_model())
    with running_triton(repository, tmp_path / "work") as server:
        backends = server.backend_processes("direction")
        assert len(backends) == 2
        assert shared_memory(server.plan.shm_prefix)
        server.kill()
        left = shared_memory(server.plan.shm_prefix)
        assert sweep_shared_memory(server.plan.shm_prefix) == left
        assert shared_memory(server.plan.shm_prefix) == []
    await eventually(lambda: not any(is_alive(backend) for backend in backends))


def test_a_missing_libpython_is_said_and_does_not_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_model(tmp_path / "models", "direction", mean_direction_model())
    monkeypatch.setattr(tritonserver, "libpython_directories", lambda: [tmp_path])
    with pytest.raises(Misconfigured, match=r"libpython3\.\d+\.so\.1\.0 is not installed"):
        prepare_tritonserver(tmp_path / "models", tmp_path / "work", free_ports())


def test_the_libpython_of_this_python_is_found() -> None:
    assert any(find_libpython(find_wheel()).glob("libpython3*"))


def test_a_missing_wheel_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(Misconfigured, match=r"requirements/tritonserver\.txt"):
        find_wheel()


def test_a_python_without_a_backend_process_is_refused() -> None:
    with pytest.raises(Misconfigured, match=r"cannot run Python 3\.99"):
        find_wheel((3, 99))


def test_a_repository_without_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="no model"):
        check_model_repository(tmp_path)
    (tmp_path / "direction").mkdir()
    (tmp_path / "direction/config.pbtxt").write_text(direction_config("direction"))
    with pytest.raises(Misconfigured, match="no version"):
        check_model_repository(tmp_path)


def test_an_empty_prefix_is_not_swept() -> None:
    with pytest.raises(ValueError, match="every program"):
        sweep_shared_memory("")


async def test_a_configuration_is_completed_from_the_model(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    config = 'backend: "onnxruntime"\nmax_batch_size: 8\n'
    add_model(repository, "bare", mean_direction_model(), config=config)
    with running_triton(repository, tmp_path / "work") as server:
        async with TritonModel(server.target) as model:
            batch = random_batch(np.random.default_rng(1), n_events=3, length=4)
            answer = await model.infer("bare", batch, CallOptions())
    assert answer.direction.shape == (3, 3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (('name: "kappa"  data_type', 'name: "cappa"  data_type'), "no output cappa"),
        (
            ('name: "lengths"  data_type: TYPE_INT32', 'name: "lengths"  data_type: TYPE_FP32'),
            "input lengths is",
        ),
        (("dims: [ -1, 6 ]", "dims: [ -1, 5 ]"), "input pulses has the shape"),
    ],
)
def test_a_model_that_differs_from_its_configuration_is_not_served(
    tmp_path: Path, change: tuple[str, str], reason: str
) -> None:
    config = direction_config("direction", [change])
    add_model(tmp_path / "models", "direction", mean_direction_model(), config=config)
    with (
        pytest.raises(RuntimeError, match=f"cannot load the model: {reason}"),
        running_triton(tmp_path / "models", tmp_path / "work"),
    ):
        pass
