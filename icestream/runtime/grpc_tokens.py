"""Lets only callers with a token into a gRPC server."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health_pb2
from prometheus_client import CollectorRegistry, Counter

from icestream.runtime.grpc_status import Context, abort_unauthenticated
from icestream.runtime.tokens import TokenFile

_HEADER = "authorization"
_SCHEME = "bearer "
# Load balancers and Kubernetes ask without a token, and learn nothing but that we serve.
_FREE_PREFIX = f"/{health_pb2.DESCRIPTOR.services_by_name['Health'].full_name}/"
_NO_TOKEN, _WRONG_TOKEN = "no_token", "wrong_token"
_WHAT_TO_SEND = "send the metadata `authorization: Bearer TOKEN` with a token that this service knows"
_PROBLEMS = {
    _NO_TOKEN: f"this service asks who is calling; {_WHAT_TO_SEND}",
    _WRONG_TOKEN: f"nobody has this token here, or not any more; {_WHAT_TO_SEND}",
}

_Continuation = Callable[[grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any]"]]

_log = structlog.get_logger(__name__)


class TokenGate(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # not generic at run time
    """Refuses calls without a known token, before any of the request is read; health checks need none.

    A stream is asked at its beginning alone.
    """

    def __init__(self, tokens: TokenFile, registry: CollectorRegistry) -> None:
        self._tokens = tokens
        self._n_refused = Counter(
            "icestream_grpc_refused_calls", "Calls refused for their token.", ["reason"], registry=registry
        )
        self._refusals = {reason: _refusal(reason) for reason in _PROBLEMS}

    async def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        """Hand the call on, or refuse it."""
        method: str = handler_call_details.method
        if method.startswith(_FREE_PREFIX):
            return await continuation(handler_call_details)
        token = _token_of(handler_call_details)
        if token is not None and self._tokens.caller_of(token) is not None:
            return await continuation(handler_call_details)
        reason = _NO_TOKEN if token is None else _WRONG_TOKEN
        self._n_refused.labels(reason).inc()
        _log.debug("call refused", method=method, reason=reason)
        return self._refusals[reason]


def token_gate(path: Path | None, registry: CollectorRegistry) -> TokenGate | None:
    """A gate for the tokens of a file; None where there is no file, and anybody may call.

    Raises:
        Misconfigured: The file cannot be used.
    """
    return None if path is None else TokenGate(TokenFile(path), registry)


def _token_of(details: grpc.HandlerCallDetails) -> str | None:
    for key, value in details.invocation_metadata or ():
        if key == _HEADER and isinstance(value, str) and value[: len(_SCHEME)].lower() == _SCHEME:
            return value[len(_SCHEME) :].strip()
    return None


def _refusal(reason: str) -> "grpc.RpcMethodHandler[Any, Any]":
    async def refuse(_: object, context: Context) -> None:
        await abort_unauthenticated(context, reason, _PROBLEMS[reason])

    # A handler of streams serves unary calls as well, and gets requests only as it asks for them: never.
    return grpc.stream_stream_rpc_method_handler(refuse)
