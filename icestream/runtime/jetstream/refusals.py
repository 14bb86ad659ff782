"""What an error answer of JetStream means for us.

The numbers are `err_code`s of the server: https://github.com/nats-io/nats-server/blob/main/server/errors.json
"""

from collections.abc import Mapping
from typing import Any

from nats.js.errors import APIError, ServiceUnavailableError

from icestream.errors import BrokerUnavailable, IceStreamError, MessageTooLarge, Misconfigured, StreamFull

ACCOUNT_LIMIT = 10002
CONSUMER_NOT_FOUND = 10014
STORAGE_LIMIT = 10047
MESSAGE_TOO_LARGE = 10054
NAME_IN_USE = 10058
STORE_FAILED = 10077
ID_IN_PROCESS = 10158

TOO_MANY_REQUESTS = 429
SERVER_ERRORS = 500


def refused_publish(answer: Mapping[str, Any], *, subject: str, size_bytes: int) -> IceStreamError:
    """The failure that a PubAck with an `error` in it stands for."""
    error: Mapping[str, Any] = answer["error"]
    stream = str(answer.get("stream", "?"))
    number, status, reason = (
        error.get("err_code"),
        int(error.get("code", 0)),
        str(error.get("description", "")),
    )
    if number in (ACCOUNT_LIMIT, STORAGE_LIMIT) or (number == STORE_FAILED and "exceeded" in reason):
        return StreamFull(stream, reason)
    if number == MESSAGE_TOO_LARGE:
        return MessageTooLarge(size_bytes, None, subject=subject)
    detail = f"stream {stream} refuses {subject}: {reason} ({number})"
    return BrokerUnavailable(detail) if _may_pass(number, status) else Misconfigured(detail)


def refused_request(error: APIError, *, what: str) -> IceStreamError:
    """The failure that an error answer to a management request stands for."""
    if error.err_code == STORE_FAILED and "exceeded" in str(error.description):
        return StreamFull(str(error.stream or what), str(error.description))
    detail = f"the broker refuses {what}: {error.description or error} ({error.err_code})"
    if error.err_code == STORAGE_LIMIT:
        return Misconfigured(f"{detail}; lower max_bytes, or raise max_file in the broker's jetstream block")
    # "No responders" comes without a code.
    may_pass = isinstance(error, ServiceUnavailableError) or _may_pass(error.err_code, error.code or 0)
    return BrokerUnavailable(detail) if may_pass else Misconfigured(detail)


def _may_pass(number: int | None, status: int) -> bool:
    """Whether the same request may succeed later without anybody changing a setting."""
    # 10052 (stream) and 10012 (consumer) are the server's 500 for a configuration it does not take.
    if number in (10012, 10052):
        return False
    return status >= SERVER_ERRORS or status == TOO_MANY_REQUESTS or number == ID_IN_PROCESS
