"""Asks models of a Triton repository without a server: onnxruntime, in threads of this process."""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from numpy.typing import NDArray

from icestream.errors import DeadlineExceeded, Misconfigured, ModelFailed, UnknownModel
from icestream.physics.events import ModelVersion
from icestream.ports import Answer, CallOptions

_MODEL_FILE = "model.onnx"
_NOTHING_BUT_FATAL = 4


@dataclass(frozen=True, slots=True, eq=False)
class _Loaded:
    version: ModelVersion
    session: Any
    outputs: Sequence[str]


class OnnxModels:
    """The models of a repository, each in its newest version; an async context manager that owns the threads.

    Inputs are passed on as they are: a dtype or shape that is not the graph's makes the call fail.

    Args:
        repository: In Triton's layout, `<model>/<version>/model.onnx`.
        n_threads: Calls that run at once, each in one thread; more of them wait.
    """

    def __init__(self, repository: Path, *, n_threads: int) -> None:
        self._repository = repository
        self._n_threads = n_threads
        self._loading = threading.Lock()
        self._loaded: dict[str, _Loaded] = {}

    async def __aenter__(self) -> Self:
        self._threads = ThreadPoolExecutor(self._n_threads, thread_name_prefix="onnx")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)

    @property
    def versions(self) -> list[ModelVersion]:
        """Those that were asked so far, by name."""
        return [self._loaded[name].version for name in sorted(self._loaded)]

    async def infer_tensors(
        self, model: str, inputs: Mapping[str, NDArray[Any]], options: CallOptions
    ) -> Answer:
        """Ask any model; see `ports.TensorModel`.

        Raises:
            UnknownModel: The repository has no such model.
            DeadlineExceeded: `options.timeout_s` passed.
            ModelFailed: The model does not take these inputs, or failed on them.
            Misconfigured: onnxruntime is not installed, or the model's file is damaged.
        """
        run_options = _onnxruntime().RunOptions()
        loop = asyncio.get_running_loop()
        answer = loop.run_in_executor(self._threads, self._run, model, dict(inputs), run_options)
        try:
            async with asyncio.timeout(options.timeout_s):
                return await answer
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"model {model!r} did not answer within {options.timeout_s:g} s"
            ) from error
        finally:
            # Nobody waits any more: a run that goes on would hold its thread, and the end of the process.
            run_options.terminate = True

    def _run(self, model: str, inputs: Mapping[str, NDArray[Any]], run_options: Any) -> Answer:
        loaded = self._load(model)
        try:
            tensors = loaded.session.run(loaded.outputs, inputs, run_options)
        except Exception as error:
            # onnxruntime's exceptions have no base of their own; all of them are about this call.
            raise ModelFailed(f"model {model!r}: {error}") from error
        return Answer(loaded.version, dict(zip(loaded.outputs, tensors, strict=True)))

    def _load(self, model: str) -> _Loaded:
        # The first calls come together, and loading takes long.
        with self._loading:
            if model not in self._loaded:
                self._loaded[model] = self._open(model)
            return self._loaded[model]

    def _open(self, model: str) -> _Loaded:
        version = newest_version(self._repository, model)
        if version is None:
            raise UnknownModel(model, model_names(self._repository))
        path = self._repository / model / version / _MODEL_FILE
        ort = _onnxruntime()
        settings = ort.SessionOptions()
        # One thread a call: calls side by side use the cores better than threads within one.
        settings.intra_op_num_threads = settings.inter_op_num_threads = 1
        # What fails is raised; onnxruntime would write it to stderr as well.
        settings.log_severity_level = _NOTHING_BUT_FATAL
        try:
            session = ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise Misconfigured(f"{path} cannot be loaded: {error}") from error
        return _Loaded(
            ModelVersion(model, version), session, [output.name for output in session.get_outputs()]
        )


def model_names(repository: Path) -> list[str]:
    """The models of a repository that have a version with an ONNX file, sorted."""
    return sorted({path.parent.parent.name for path in _model_files(repository, "*")})


def newest_version(repository: Path, model: str) -> str | None:
    """The version of the highest number; None where the repository has none of this model."""
    versions = [path.parent.name for path in _model_files(repository, model)]
    return max(versions, key=int, default=None)


def _model_files(repository: Path, model: str) -> list[Path]:
    return [path for path in repository.glob(f"{model}/*/{_MODEL_FILE}") if path.parent.name.isdecimal()]


def _onnxruntime() -> Any:
    # Large, and part of no service: a router or a worker must start without it.
    try:
        import onnxruntime  # noqa: PLC0415
    except ImportError as error:
        raise Misconfigured(
            "onnxruntime is not installed; install it with: pip install 'icestream[local]'"
        ) from error
    return onnxruntime
