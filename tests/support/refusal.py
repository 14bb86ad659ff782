"""What a client reads from a call that was refused."""

from typing import TYPE_CHECKING, Any, cast

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

if TYPE_CHECKING:
    from google.protobuf import any_pb2


class Refusal:
    """A status and its details."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self.code = error.code()
        self.text = error.details() or ""
        status = rpc_status.from_call(cast("grpc.Call", error))
        self._details: list[any_pb2.Any] = list(status.details) if status else []

    def detail(self, kind: Any) -> Any:
        [packed] = [each for each in self._details if each.Is(kind.DESCRIPTOR)]
        detail = kind()
        packed.Unpack(detail)
        return detail

    @property
    def reason(self) -> str:
        return str(self.detail(error_details_pb2.ErrorInfo).reason)

    @property
    def retry_delay_s(self) -> float:
        delay = self.detail(error_details_pb2.RetryInfo).retry_delay
        return float(delay.seconds + delay.nanos / 1e9)

    @property
    def says_when_to_retry(self) -> bool:
        return any(each.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for each in self._details)

    @property
    def violations(self) -> dict[str, str]:
        fields = self.detail(error_details_pb2.BadRequest).field_violations
        return {violation.field: violation.description for violation in fields}
