"""Serves the ONNX models of a Triton repository: a Python-based backend by the name of the native one.

The wheel that brings Triton to a laptop has no onnxruntime backend. This file stands in for it, for every
model that says `backend: "onnxruntime"`, and reads the same parameters, so that one model repository runs
here and on the official image. Two parameters are its own, and the native backend ignores them:
`sub_batch_size` is how many rows a run takes, where less than `max_batch_size` is faster, also of one long
request; `padded_input` names an input (rows, length, ...) whose length is cut to what a run needs: what is
zero at the end in all its rows is padding, which the model must not heed.

Spans are made for sampled requests only, and only when OTEL_EXPORTER_OTLP_ENDPOINT is set: `triton <model>`
with the children `queue`, `batch` and `compute`, below each trace context that a request brings, in the
forwarded header `traceparent` or, for a batch of sampled events, in the request parameter `traceparents`
(separated by commas). Triton tells a Python backend neither when a request arrived nor when it was queued:
`queue` runs from the request parameter `sent_unix_ns`, the client's clock, to the start of `execute`. So it
holds the way to the server too, and is left out where the client does not say when it sent.
"""

import ctypes
import json
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb
from numpy.typing import NDArray

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import SpanContext

Array = NDArray[Any]
Config = Mapping[str, Any]

# Triton 24.10 was built before numpy 2: there `as_numpy()` repeats the first element and `pb.Tensor(array)`
# sends no bytes, without an error. DLPack is exact, but on numpy 1 it crashes the process.
HAS_NUMPY_2 = np.lib.NumpyVersion(np.__version__) >= "2.0.0"
FLUSH_LIMIT_S = 2.0
DEFAULT_MODEL_FILE = "model.onnx"

ONNX_TO_TRITON = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
}
# The numbers of the native backend: `optimization { graph { level } }`.
GRAPH_LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}


class WrongModelError(ValueError):
    """The model is not what its configuration says."""


@dataclass(eq=False)
class Call:
    """One request of an execute, and what became of it."""

    request: Any
    inputs: dict[str, Array]
    parents: "Sequence[Context]" = ()
    """The sampled trace contexts it brings."""
    sent_ns: int | None = None
    response: Any = None
    error: str | None = None
    compute_ns: tuple[int, int] | None = None
    executed_with: "Sequence[Call]" = field(default=(), repr=False)
    """The calls of the same run, itself among them."""

    @property
    def n_rows(self) -> int:
        """Length of the batch dimension; all inputs share it."""
        return next((len(array) for array in self.inputs.values() if array.ndim), 1)

    @property
    def signature(self) -> tuple[object, ...]:
        """Equal for calls that can be concatenated."""
        return tuple((name, array.dtype.str, array.shape[1:]) for name, array in sorted(self.inputs.items()))


class Lent:
    """An array on its way to Triton, which takes it over at once.

    Triton renames the capsule that it took to `used_dlpack` where the standard says `used_dltensor`, so
    numpy's destructor would complain on stderr for every tensor, at 0.4 ms each. Nothing is left for it to free.
    """

    def __init__(self, array: Array) -> None:
        self._array = array

    def __dlpack__(self, stream: None = None) -> object:
        capsule = self._array.__dlpack__(stream=stream)
        ctypes.pythonapi.PyCapsule_SetDestructor(ctypes.py_object(capsule), None)
        return capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()


class TritonPythonModel:
    """One instance of one model; Triton finds the class by its name."""

    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        """Fill in the inputs and outputs that the configuration leaves out."""
        known = config.as_dict()
        if known["input"] and known["output"]:
            return config
        session = ort.InferenceSession(_model_file_to_complete(), providers=["CPUExecutionProvider"])
        is_batched = all(_is_free(tensor.shape[:1]) for tensor in session.get_inputs())
        if is_batched and known["max_batch_size"] == 0:
            config.set_max_batch_size(4)  # what the native backend assumes
            config.set_dynamic_batching()
        skipped = 1 if is_batched else 0
        for tensor in session.get_inputs():
            config.add_input(_tensor_config(tensor, skipped))
        for tensor in session.get_outputs():
            config.add_output(_tensor_config(tensor, skipped))
        return config

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the model, or raise with a text that says why not."""
        config = json.loads(args["model_config"])
        path = Path(args["model_repository"], args["model_version"], _model_file_name(config))
        is_gpu = args["model_instance_kind"] == "GPU"
        device_id = args["model_instance_device_id"]
        try:
            self._session = ort.InferenceSession(
                str(path), session_options(config), providers=_providers(device_id, is_gpu=is_gpu)
            )
            check_against_config(self._session, config)
        except Exception as error:
            raise pb.TritonModelException(f"cannot load the model: {_plain(error)}") from None
        self._output_names = [output["name"] for output in config["output"]]
        # Zero means that the model does not batch, whatever the parameter says.
        max_rows = config["max_batch_size"]
        self._max_rows = min(int(_parameter(config, "sub_batch_size", str(max_rows))), max_rows)
        self._padded_input = _parameter(config, "padded_input", "")
        self._spans: Spans | None = None
        if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
            device = f"gpu:{device_id}" if is_gpu else "cpu"
            self._spans = Spans(args["model_name"], args["model_version"], device)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request, each with its own result or its own error."""
        start_ns = time.time_ns()
        calls = [self._read(request) for request in requests]
        for n_done, batch in enumerate(sub_batches(calls, self._max_rows)):
            # Triton drops what is cancelled in its queue, so only waiting in here is worth the question:
            # it is a message to the server.
            self._answer(_not_cancelled(batch) if n_done else batch)
        if self._spans is not None:
            self._spans.record(calls, start_ns)
        return [call.response for call in calls]

    def finalize(self) -> None:
        """Send the last spans; a collector that is away must not hold up the server's end."""
        if self._spans is not None:
            self._spans.close()

    def _read(self, request: Any) -> Call:
        call = Call(request, {tensor.name(): _to_numpy(tensor) for tensor in request.inputs()})
        if self._spans is not None:
            call.parents, call.sent_ns = self._spans.parents_of(request)
        return call

    def _answer(self, batch: Sequence[Call]) -> None:
        """Run the calls together; where that fails, each alone, so that one bad input fails only itself."""
        if not batch:
            return
        try:
            self._run(batch)
        except Exception as error:
            if len(batch) == 1:
                _fail(batch[0], _plain(error), _error_code(error))
                return
            for call in _not_cancelled(batch):
                self._answer([call])

    def _run(self, batch: Sequence[Call]) -> None:
        inputs = _concatenated(batch)
        bounds = list(accumulate((call.n_rows for call in batch), initial=0))
        start_ns = time.time_ns()
        outputs = self._compute(inputs, bounds[-1])
        end_ns = time.time_ns()
        for name, output in zip(self._output_names, outputs, strict=True):
            # Without batching (max_batch_size 0) the first dimension is the model's own business.
            if self._max_rows and len(output) != bounds[-1]:
                raise WrongModelError(f"output {name} has {len(output)} rows for a batch of {bounds[-1]}")
        for call, (begin, end) in zip(batch, pairwise(bounds), strict=True):
            rows = slice(begin, end) if len(batch) > 1 else slice(None)
            tensors = [
                _to_tensor(name, out[rows]) for name, out in zip(self._output_names, outputs, strict=True)
            ]
            call.response = pb.InferenceResponse(output_tensors=tensors)
            call.compute_ns = (start_ns, end_ns)
            call.executed_with = batch

    def _compute(self, inputs: Mapping[str, Array], n_rows: int) -> list[Array]:
        """Answer in runs of as many rows as are fast."""
        if not 0 < self._max_rows < n_rows:
            return self._run_session(inputs)
        bounds = [*range(0, n_rows, self._max_rows), n_rows]
        runs = [
            self._run_session({name: array[begin:end] for name, array in inputs.items()})
            for begin, end in pairwise(bounds)
        ]
        return [np.concatenate(parts) for parts in zip(*runs, strict=True)]

    def _run_session(self, inputs: Mapping[str, Array]) -> list[Array]:
        if padded := self._padded_input:
            inputs = {**inputs, padded: without_padding(inputs[padded])}
        outputs: list[Array] = self._session.run(self._output_names, inputs)
        return outputs


def without_padding(array: Array) -> Array:
    """Cut the second dimension (of at least 2) behind the last place that is not zero everywhere; one place stays."""
    # By way of a comparison and one dimension first: `any` of numbers over several takes eight times as long.
    is_used = (array != 0).any(axis=0).any(axis=tuple(range(1, array.ndim - 1)))
    (used,) = is_used.nonzero()
    return array[:, : used[-1] + 1 if len(used) else 1]


def sub_batches(calls: Sequence[Call], max_rows: int) -> Iterator[list[Call]]:
    """Group calls of equal shape, in order, into runs of at most `max_rows` rows.

    A call that is longer than that stands alone, in several runs; zero means that every call runs alone.
    """
    groups: dict[tuple[object, ...], list[Call]] = {}
    for call in calls:
        groups.setdefault(call.signature, []).append(call)
    for group in groups.values():
        batch: list[Call] = []
        n_rows = 0
        for call in group:
            if batch and n_rows + call.n_rows > max_rows:
                yield batch
                batch, n_rows = [], 0
            batch.append(call)
            n_rows += call.n_rows
        yield batch


def session_options(config: Config) -> ort.SessionOptions:
    """Read the native backend's parameters."""
    options = ort.SessionOptions()
    options.log_severity_level = 4  # a failing run is reported to its caller, not logged
    options.graph_optimization_level = _graph_level(config)
    options.intra_op_num_threads = int(_parameter(config, "intra_op_thread_count", "0"))
    options.inter_op_num_threads = int(_parameter(config, "inter_op_thread_count", "0"))
    if int(_parameter(config, "execution_mode", "0")):
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    options.enable_cpu_mem_arena = _is_on(_parameter(config, "enable_mem_arena", "1"))
    options.enable_mem_pattern = _is_on(_parameter(config, "enable_mem_pattern", "1"))
    for name in config.get("parameters", {}):
        if name.startswith("session."):
            options.add_session_config_entry(name, _parameter(config, name, ""))
    return options


def check_against_config(session: ort.InferenceSession, config: Config) -> None:
    """Compare names, types and shapes, so that a wrong model fails when it is loaded.

    Raises:
        WrongModelError: They differ.
    """
    is_batched = config["max_batch_size"] > 0
    _check_tensors(session.get_inputs(), config["input"], "input", is_batched=is_batched)
    _check_tensors(session.get_outputs(), config["output"], "output", is_batched=is_batched)
    configured = {tensor["name"] for tensor in config["input"]}
    missing = sorted(tensor.name for tensor in session.get_inputs() if tensor.name not in configured)
    if missing:
        raise WrongModelError(f"the configuration lacks the model's inputs {missing}")


class Spans:
    """Makes Triton's part of the traces of sampled requests."""

    def __init__(self, model: str, version: str, device: str) -> None:
        # Imported here, because half a second at the start and 30 MB are too much for a server that does
        # not trace.
        from opentelemetry import trace  # noqa: PLC0415
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.trace.propagation import tracecontext  # noqa: PLC0415

        self._trace = trace
        self._propagator = tracecontext.TraceContextTextMapPropagator()
        self._provider = TracerProvider(resource=Resource.create({"service.name": "triton"}))
        # The default queue of 2048 loses spans of a burst.
        exporter = OTLPSpanExporter(timeout=5)
        self._provider.add_span_processor(
            BatchSpanProcessor(exporter, max_queue_size=32768, schedule_delay_millis=1000)
        )
        self._tracer = self._provider.get_tracer("icestream.triton")
        self._name = f"triton {model}"
        self._attributes = {
            "icestream.model.name": model,
            "icestream.model.version": version,
            "icestream.device": device,
        }

    def parents_of(self, request: Any) -> "tuple[Sequence[Context], int | None]":
        """Find the sampled trace contexts of a request and the time at which its client sent it."""
        text = request.parameters()
        if "traceparent" not in text:
            return (), None
        parameters = json.loads(text)
        headers = [parameters.get("traceparent", ""), *parameters.get("traceparents", "").split(",")]
        sampled = [header.strip() for header in headers if _is_sampled(header)]
        if not sampled:
            return (), None
        state = parameters.get("tracestate", "")
        carriers = [{"traceparent": header, "tracestate": state} for header in dict.fromkeys(sampled)]
        contexts = [self._propagator.extract(carrier) for carrier in carriers]
        valid = [context for context in contexts if self._span_context(context).is_valid]
        return valid, parameters.get("sent_unix_ns")

    def record(self, calls: Sequence[Call], start_ns: int) -> None:
        """Make the spans of one execute.

        Args:
            calls: With their answers.
            start_ns: When execute began.
        """
        for call in calls:
            for parent in call.parents:
                self._record_one(call, parent, start_ns)

    def close(self) -> None:
        """Export what is left, within `FLUSH_LIMIT_S`."""
        # The exporter's own shutdown can wait for a whole retry.
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(FLUSH_LIMIT_S)

    def _record_one(self, call: Call, parent: "Context", start_ns: int) -> None:
        # A clock that is ahead of ours would make a queue that ends before it begins.
        sent_ns = call.sent_ns if call.sent_ns is not None and call.sent_ns < start_ns else None
        span = self._tracer.start_span(
            self._name,
            context=parent,
            kind=self._trace.SpanKind.SERVER,
            start_time=sent_ns or start_ns,
            attributes={**self._attributes, "icestream.batch.size": call.n_rows},
        )
        inside = self._trace.set_span_in_context(span)
        if sent_ns is not None:
            self._child("queue", inside, (sent_ns, start_ns))
        if call.compute_ns is not None:
            self._child("batch", inside, (start_ns, call.compute_ns[0]))
            self._record_compute(call, parent, inside)
        if call.error is not None:
            span.set_status(self._trace.StatusCode.ERROR, call.error)
        span.end()

    def _record_compute(self, call: Call, parent: "Context", inside: "Context") -> None:
        assert call.compute_ns is not None
        span = self._tracer.start_span(
            "compute",
            context=inside,
            start_time=call.compute_ns[0],
            attributes={"icestream.executed_batch.size": sum(fellow.n_rows for fellow in call.executed_with)},
            links=[self._trace.Link(self._span_context(other)) for other in _linked(call, parent)],
        )
        span.end(call.compute_ns[1])

    def _child(self, name: str, inside: "Context", times_ns: tuple[int, int]) -> None:
        self._tracer.start_span(name, context=inside, start_time=times_ns[0]).end(times_ns[1])

    def _span_context(self, context: "Context") -> "SpanContext":
        return self._trace.get_current_span(context).get_span_context()


def _linked(call: Call, parent: "Context") -> "list[Context]":
    """From the first of a run to all others, and from these to the first.

    Links of each to each would be as many as the square of the batch, and take longer than many a model.
    """
    of_the_run = (context for fellow in call.executed_with for context in fellow.parents)
    first = next(of_the_run)
    return list(of_the_run) if parent is first else [first]


def _is_sampled(traceparent: str) -> bool:
    """Test the flag alone: most requests are not sampled and must cost nothing."""
    return traceparent[-1:] in "13579bdf" and len(traceparent) >= 55


def _to_numpy(tensor: Any) -> Array:
    array: Array = np.from_dlpack(tensor) if HAS_NUMPY_2 else tensor.as_numpy()
    return array


def _to_tensor(name: str, array: Array) -> Any:
    contiguous = np.ascontiguousarray(array)
    return pb.Tensor.from_dlpack(name, Lent(contiguous)) if HAS_NUMPY_2 else pb.Tensor(name, contiguous)


def _concatenated(batch: Sequence[Call]) -> dict[str, Array]:
    if len(batch) == 1:
        return batch[0].inputs
    return {name: np.concatenate([call.inputs[name] for call in batch]) for name in batch[0].inputs}


def _not_cancelled(batch: Sequence[Call]) -> list[Call]:
    waiting = []
    for call in batch:
        if call.request.is_cancelled():
            _fail(call, "the caller cancelled the request", pb.TritonError.CANCELLED)
        else:
            waiting.append(call)
    return waiting


def _fail(call: Call, reason: str, code: Any) -> None:
    call.error = reason
    call.response = pb.InferenceResponse(error=pb.TritonError(reason, code))


def _error_code(error: Exception) -> Any:
    is_input = type(error).__name__ == "InvalidArgument"  # the class has no public home in onnxruntime
    return pb.TritonError.INVALID_ARG if is_input else pb.TritonError.INTERNAL


def _plain(error: Exception) -> str:
    """The text without the paths of this machine or of the machine that built onnxruntime."""
    return re.sub(r"(?<![\w.])/[\w.+/-]+(:\d+)?\s?", "", str(error)).strip()


def _parameter(config: Config, name: str, default: str) -> str:
    return str(config.get("parameters", {}).get(name, {}).get("string_value", default))


def _is_on(text: str) -> bool:
    return text.lower() in ("1", "true")


def _graph_level(config: Config) -> ort.GraphOptimizationLevel:
    level = config.get("optimization", {}).get("graph", {}).get("level", 0)
    return GRAPH_LEVELS.get(int(level), ort.GraphOptimizationLevel.ORT_ENABLE_ALL)


def _providers(device_id: str, *, is_gpu: bool) -> list[Any]:
    if not is_gpu:
        return ["CPUExecutionProvider"]
    return [("CUDAExecutionProvider", {"device_id": device_id}), "CPUExecutionProvider"]


def _model_file_name(config: Config) -> str:
    return config.get("default_model_filename") or DEFAULT_MODEL_FILE


def _model_file_to_complete() -> str:
    """Find the model's file, which Triton does not tell `auto_complete_config`."""
    # It is the first argument of the process that Triton starts for this.
    return Path("/proc/self/cmdline").read_text().split("\0")[1]


def _tensor_config(tensor: Any, skipped: int) -> dict[str, object]:
    dims = [-1 if _is_free([size]) else size for size in tensor.shape[skipped:]]
    return {"name": tensor.name, "data_type": ONNX_TO_TRITON[tensor.type], "dims": dims}


def _check_tensors(
    tensors: Sequence[Any], configured: Sequence[Config], kind: str, *, is_batched: bool
) -> None:
    known = {tensor.name: tensor for tensor in tensors}
    for entry in configured:
        name = entry["name"]
        if name not in known:
            raise WrongModelError(f"no {kind} {name} in the model, only {sorted(known)}")
        data_type = ONNX_TO_TRITON.get(known[name].type)
        if data_type != entry["data_type"]:
            raise WrongModelError(f"{kind} {name} is {known[name].type}, not {entry['data_type']}")
        dims = entry.get("reshape", {}).get("shape", entry["dims"])
        expected = [-1, *map(int, dims)] if is_batched else [*map(int, dims)]
        if not _fits(known[name].shape, expected):
            raise WrongModelError(f"{kind} {name} has the shape {known[name].shape}, not {expected}")


def _fits(shape: Sequence[Any], expected: Sequence[int]) -> bool:
    return len(shape) == len(expected) and all(
        _is_free([size]) or wanted == size for size, wanted in zip(shape, expected, strict=True)
    )


def _is_free(sizes: Sequence[Any]) -> bool:
    """Whether the sizes are left open in the graph: a name, nothing, or -1."""
    return bool(sizes) and all(not isinstance(size, int) or size < 0 for size in sizes)
