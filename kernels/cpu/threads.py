"""Tasks onto threads: Python threads running kernels that have let go of the interpreter lock.

Not Numba's `prange`: a call through that costs 440 µs against 40 µs here, it compiles every kernel twice, and its workqueue
layer ends the process when two Python threads call it at once, as hooks on two model replicas do. As many threads as torch
uses (`torch.set_num_threads`, OMP_NUM_THREADS), at most NUMBA_NUM_THREADS. Tasks write to places of their own and are cut by
shape alone, so who runs them, and in what order, cannot be seen in the result.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numba

SERIAL_BYTES = 1 << 19
"""Smaller tensors stay on the caller's thread: reading 512 KB takes about as long as waking a thread."""

Task = Callable[[], None]

pools: dict[int, ThreadPoolExecutor] = {}


def pool() -> ThreadPoolExecutor:
    """This process's threads; a forked child gets its own, since threads do not survive a fork."""
    pid = os.getpid()
    if pid not in pools:
        pools.clear()
        pools[pid] = ThreadPoolExecutor(numba.config.NUMBA_NUM_THREADS, "naa-fast")  # type: ignore[attr-defined]
    return pools[pid]


def threads() -> int:
    """Threads to use. Numba's own count is not asked for: asking starts its OpenMP layer, which overrides torch's setting."""
    most: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    torch = sys.modules.get("torch")
    return most if torch is None else min(most, torch.get_num_threads())


def shares(jobs: int, nbytes: int) -> list[slice]:
    """Which of so many pieces of work a task takes: all of them where one thread does the work, since each call of a kernel costs
    10 us, else one.
    """
    alone = nbytes < SERIAL_BYTES or threads() == 1
    return [slice(0, jobs)] if alone else [slice(job, job + 1) for job in range(jobs)]


def run(tasks: list[Task], nbytes: int) -> None:
    """Run all tasks and return when all are done; the caller's thread works too."""
    if nbytes < SERIAL_BYTES or len(tasks) == 1:
        for task in tasks:
            task()
        return
    queue = deque(tasks)

    def work() -> None:
        while True:
            try:
                task = queue.popleft()
            except IndexError:
                return
            task()

    helpers = min(threads(), len(tasks)) - 1
    waiting = [pool().submit(work) for _ in range(helpers)]
    work()
    for helper in waiting:
        if not helper.cancel():  # one that has not started by now has nothing left to do, and waiting for it cost up to 400 ms
            helper.result()
