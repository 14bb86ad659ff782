"""Worker processes that end with their owner, however it ends."""

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor


def worker_pool(n_workers: int) -> ProcessPoolExecutor:
    """Start processes that share nothing with this one: torch's threads do not survive a fork."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(n_workers, mp_context=context, initializer=_end_with_owner)


def _end_with_owner() -> None:
    threading.Thread(target=_wait_for_owner, daemon=True).start()


def _wait_for_owner() -> None:
    # A killed owner closes no queue: its workers would wait for work for ever.
    owner = multiprocessing.parent_process()
    assert owner is not None
    owner.join()
    os._exit(1)
