"""Failures as gRPC says them: a status whose details say what to change or when to come back."""

from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from icestream import errors
from icestream.errors import IceStreamError, InvalidEvent, InvalidQuery, InvalidScan, Overloaded
from icestream.runtime.faults import meaning_of
from icestream.runtime.tracing import TRACEPARENT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message

DOMAIN = "icestream"
_RETRY_UNAVAILABLE_S = 1.0

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

STATUS_CODES: dict[type[IceStreamError], grpc.StatusCode] = {
    errors.InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnknownModel: grpc.StatusCode.NOT_FOUND,
    errors.UnknownReco: grpc.StatusCode.NOT_FOUND,
    errors.UnknownReconstruction: grpc.StatusCode.NOT_FOUND,
    errors.UnknownScan: grpc.StatusCode.NOT_FOUND,
    errors.UnknownEvent: grpc.StatusCode.NOT_FOUND,
    errors.Misconfigured: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.ModelFailed: grpc.StatusCode.INTERNAL,
    errors.TooManyDeliveries: grpc.StatusCode.ABORTED,
}


async def abort(context: Context, error: IceStreamError) -> NoReturn:
    """End a call with a status for this failure."""
    await _abort(context, meaning_of(type(error), STATUS_CODES), str(error), _facts(error))


async def abort_unauthenticated(context: Context, reason: str, problem: str) -> NoReturn:
    """End a call whose caller did not say who it is.

    Args:
        context: Of the call.
        reason: A stable, lower-case name of what is wrong.
        problem: The same for a person, with what to send.
    """
    facts = [error_details_pb2.ErrorInfo(reason=reason.upper(), domain=DOMAIN)]
    await _abort(context, grpc.StatusCode.UNAUTHENTICATED, problem, facts)


def traceparent_of_call(context: Context) -> str | None:
    """The trace that the caller sent along."""
    for key, value in context.invocation_metadata() or ():
        if key == TRACEPARENT:
            return value if isinstance(value, str) else value.decode("ascii", "replace")
    return None


def retry_delay(error: IceStreamError) -> duration_pb2.Duration | None:
    """When to try again; None where that changes nothing."""
    if not error.retryable:
        return None
    seconds = error.retry_after_s if isinstance(error, Overloaded) else _RETRY_UNAVAILABLE_S
    return duration_pb2.Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))


async def _abort(
    context: Context, code: grpc.StatusCode, problem: str, facts: "Sequence[Message]"
) -> NoReturn:
    number, _ = code.value
    status = status_pb2.Status(code=number, message=problem)
    for fact in facts:
        packed = any_pb2.Any()
        packed.Pack(fact)
        status.details.append(packed)
    reply = rpc_status.to_status(status)
    await context.abort(reply.code, reply.details, reply.trailing_metadata)


def _facts(error: IceStreamError) -> "list[Message]":
    facts: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason.upper(), domain=DOMAIN)]
    if violations := _violations(error):
        facts.append(error_details_pb2.BadRequest(field_violations=violations))
    if (delay := retry_delay(error)) is not None:
        facts.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return facts


def _violations(error: IceStreamError) -> "list[error_details_pb2.BadRequest.FieldViolation]":
    violation = error_details_pb2.BadRequest.FieldViolation
    if isinstance(error, InvalidEvent):
        return [violation(field=f"event.{v.field}", description=v.problem) for v in error.violations]
    if isinstance(error, InvalidScan | InvalidQuery) and error.field:
        return [violation(field=error.field, description=str(error))]
    return []
