"""Waiting for what happens soon, without guessing how soon."""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic


async def eventually(
    condition: Callable[[], object | Awaitable[object]], *, timeout_s: float = 10.0, poll_s: float = 0.01
) -> None:
    """Return once the condition, plain or async, holds; fail when it does not within the time.

    A condition may also assert: its last AssertionError is then what the test fails with.
    """
    give_up_at_s = monotonic() + timeout_s
    while True:
        try:
            result = condition()
            if isinstance(result, Awaitable):
                result = await result
        except AssertionError:
            if monotonic() >= give_up_at_s:
                raise
        else:
            if result or result is None:
                return
            assert monotonic() < give_up_at_s, f"not within {timeout_s:g} s: {condition}"
        await asyncio.sleep(poll_s)
