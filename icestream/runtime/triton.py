"""Asks models on a Triton server over gRPC.

A raw stub rather than tritonclient's: a fifth less CPU a request, and the tensors are copied once.
"""

import re
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

from icestream.errors import (
    DeadlineExceeded,
    IceStreamError,
    Misconfigured,
    ModelFailed,
    ModelOverloaded,
    ModelUnavailable,
    UnknownModel,
)
from icestream.physics.events import ModelVersion
from icestream.ports import Answer, CallOptions, ModelInput, ModelOutput
from icestream.runtime.tracing import is_sampled

Array = NDArray[Any]

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""Room for 4000 events of 128 pulses; the server's shared memory grows to what it once held, and stays."""
URGENT_PRIORITY = 1
BULK_PRIORITY = 2
HEALTH_TIMEOUT_S = 2.0

_DATATYPES = {
    np.dtype(np.bool_): "BOOL",
    np.dtype(np.int32): "INT32",
    np.dtype(np.int64): "INT64",
    np.dtype(np.float32): "FP32",
    np.dtype(np.float64): "FP64",
}
_DTYPES = {name: dtype for dtype, name in _DATATYPES.items()}


class TritonModel:
    """Models on one Triton server; an async context manager that owns the connection.

    Args:
        target: `host:port` of Triton's gRPC endpoint.
        max_message_bytes: Largest request and response.
    """

    def __init__(self, target: str, *, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._target = target
        self._max_message_bytes = max_message_bytes

    async def __aenter__(self) -> Self:
        self._channel = grpc.aio.insecure_channel(self._target, _channel_options(self._max_message_bytes))
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._channel.close(None)

    async def infer(self, model: str, batch: ModelInput, options: CallOptions) -> ModelOutput:
        """Answer for every row of the batch, or raise for the batch as a whole; see `ports.Model`."""
        inputs = {"pulses": batch.pulses, "lengths": batch.lengths}
        answer = await self.infer_tensors(model, inputs, options)
        try:
            return ModelOutput(
                direction=answer.tensors["direction"],
                kappa=answer.tensors["kappa"],
                error_radii_rad=answer.tensors["error_radii"],
                model=answer.model,
            )
        except KeyError as error:
            raise Misconfigured(
                f"model {model!r} has no output {error}: it is not a direction model"
            ) from error

    async def infer_tensors(
        self, model: str, inputs: Mapping[str, Array], options: CallOptions, *, version: str = ""
    ) -> Answer:
        """Ask any model.

        Args:
            model: Its name.
            inputs: By the names of the model's configuration; each of the dtype that it says.
            options: The deadline covers the whole call; waiting in Triton's queue ends with it.
            version: The newest if empty.

        Raises:
            UnknownModel: No such model, or version, is served.
            ModelUnavailable: The server does not answer, or with damaged tensors, or the model is not ready.
            ModelOverloaded: The server's queue is full.
            DeadlineExceeded: `options.timeout_s` passed.
            ModelFailed: The model answered with an error for these inputs.
            Misconfigured: The server does not let us in, or is no Triton.
        """
        sampled = [header for header in options.traceparents if is_sampled(header)]
        request = _request(model, version, inputs, options, sampled)
        # Triton traces whatever brings this header, sampled or not. Its native tracing knows this one only;
        # our backend reads the others from a parameter.
        metadata = (("traceparent", sampled[0]),) if sampled else ()
        try:
            response = await self._stub.ModelInfer(request, timeout=options.timeout_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise await self._translated(error, _named(model, version)) from error
        try:
            tensors = _tensors(response)
        except (KeyError, ValueError) as error:
            # Not the input's fault: the same request may succeed once the server is repaired.
            raise ModelUnavailable(f"the server's answer is damaged: {error}") from error
        return Answer(ModelVersion(response.model_name, response.model_version), tensors)

    async def model_names(self) -> list[str]:
        """The models that have a version ready, sorted.

        Raises:
            ModelUnavailable: The server does not answer.
        """
        request = service_pb2.RepositoryIndexRequest(ready=True)
        try:
            index = await self._stub.RepositoryIndex(request, timeout=HEALTH_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise translate(error, model="") from error
        return sorted({entry.name for entry in index.models})

    async def is_ready(self, model: str) -> bool:
        """Whether the server says that it serves the model.

        It says so, too, when the process that computes has died: only `canary` tells.
        """
        request = service_pb2.ModelReadyRequest(name=model)
        try:
            response = await self._stub.ModelReady(request, timeout=HEALTH_TIMEOUT_S)
        except grpc.aio.AioRpcError:
            return False
        return bool(response.ready)

    async def _translated(self, error: grpc.aio.AioRpcError, model: str) -> IceStreamError:
        translated = translate(error, model=model)
        if not isinstance(translated, UnknownModel):
            return translated
        try:
            return UnknownModel(model, await self.model_names())
        except IceStreamError:
            return translated


def translate(error: grpc.aio.AioRpcError, *, model: str) -> IceStreamError:
    """Say what a status of Triton means, by its code and, where that is not enough, by its text."""
    code = error.code()
    text = error.details() or code.name
    for known_code, pattern, make in _MEANINGS:
        if code is known_code and re.search(pattern, text, re.IGNORECASE):
            return make(text) if make is not UnknownModel else UnknownModel(model, ())
    return ModelFailed(text)


# The first that matches decides. Triton answers UNAVAILABLE for what no retry helps, and INTERNAL for what
# a restart cures.
_MEANINGS: Sequence[tuple[grpc.StatusCode, str, Any]] = (
    (grpc.StatusCode.UNAVAILABLE, "protocol is restricted", Misconfigured),
    (grpc.StatusCode.UNAVAILABLE, "exceeds maximum queue size|request timeout expired", ModelOverloaded),
    (grpc.StatusCode.UNAVAILABLE, "unknown model|no available versions", UnknownModel),
    (grpc.StatusCode.UNAVAILABLE, "", ModelUnavailable),
    (grpc.StatusCode.NOT_FOUND, "", UnknownModel),
    (grpc.StatusCode.DEADLINE_EXCEEDED, "", DeadlineExceeded),
    (grpc.StatusCode.CANCELLED, "", ModelUnavailable),
    (grpc.StatusCode.INTERNAL, "stub process|is not healthy", ModelUnavailable),
    (grpc.StatusCode.UNIMPLEMENTED, "", Misconfigured),
    (grpc.StatusCode.UNAUTHENTICATED, "", Misconfigured),
    (grpc.StatusCode.PERMISSION_DENIED, "", Misconfigured),
)


def _channel_options(max_message_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        # The server must allow pings this often: --grpc-http2-min-recv-ping-interval-without-data=10000.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # A restarted server is back in half a second; gRPC would wait up to two minutes to look again.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
    ]


def _request(
    model: str, version: str, inputs: Mapping[str, Array], options: CallOptions, sampled: Sequence[str]
) -> Any:
    request = service_pb2.ModelInferRequest(model_name=model, model_version=version)
    for name, array in inputs.items():
        request.inputs.add(name=name, datatype=_DATATYPES[array.dtype], shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    parameters = request.parameters
    parameters["priority"].uint64_param = URGENT_PRIORITY if options.is_urgent else BULK_PRIORITY
    parameters["timeout"].int64_param = max(int(options.timeout_s * 1e6), 1)
    if sampled:
        parameters["sent_unix_ns"].int64_param = time.time_ns()
    if len(sampled) > 1:
        parameters["traceparents"].string_param = ",".join(sampled)
    return request


def _tensors(response: Any) -> dict[str, Array]:
    return {
        output.name: np.frombuffer(content, _DTYPES[output.datatype]).reshape(output.shape)
        for output, content in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def _named(model: str, version: str) -> str:
    return f"{model}/{version}" if version else model
