"""`Decode`, one image file to its values, and `Decoders`, worker processes that do it: what kills its process is unusable."""

from __future__ import annotations

import os
import signal
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context

import numpy as np

from naa_fast.errors import InputError
from naa_fast.inputs.formats import Image, as_mode, opened, pixels_of, readable, undecodable
from naa_fast.inputs.preprocessing import Preprocessing
from naa_fast.records import Array

PART, AHEAD = 8, 4
"""Images a task, and tasks that wait for each worker."""
WATCHED_S = 2.0
DIED = "cannot be decoded: the process that decoded it died"
Raw = tuple[tuple[int, int], Array, float] | str
"""(width, height) in the file, the pixels as they were prepared, and the value that is 1; or why the file cannot be decoded. Not
yet floating-point: a process hands over a quarter of the bytes.
"""
Found = tuple[tuple[int, int], Array] | str
"""(width, height) in the file and values `[height, width, channels]` float32, or why the file cannot be decoded."""


@dataclass(frozen=True)
class Decode:
    """What is done to a file: read in a `mode`, and prepared as the `plan` says."""

    mode: str
    plan: Preprocessing

    def __call__(self, path: Image) -> Raw:
        import PIL.Image

        try:
            with opened(path) as file, PIL.Image.open(file, formats=readable()) as image:
                size = image.size
                if why := self.plan.too_large(size):
                    return why
                converted, unit = as_mode(image, self.mode)
                return size, np.asarray(self.plan.shaped(converted)), unit
        except Exception as error:  # a hostile file can raise anything from inside a decoder
            return undecodable(path, error)

    def finished(self, path: Image, raw: Raw) -> Found:
        """The values of what was decoded."""
        if isinstance(raw, str):
            return raw
        try:
            size, pixels, unit = raw
            return size, self.plan.normalised(pixels_of(pixels, unit, self.mode))
        except Exception as error:
            return undecodable(path, error)


class Decoders:
    """`workers` processes, started when they are first needed and again when one died; they end with what holds this."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def run(self, decode: Decode, paths: Iterable[Image]) -> Iterator[Raw]:
        """What `decode` makes of each path, in order. Where a process dies, the images it had are tried one by one, and one
        that kills another is left out.

        Raises:
            InputError: no process can be started.
        """
        left, waiting = iter(paths), deque[tuple[list[Image], Future[list[Raw]]]]()
        while True:
            while len(waiting) < AHEAD * self.workers and (part := list(islice(left, PART))):
                waiting.append((part, self._submit(decode, part)))
            if not waiting:
                return
            part, future = waiting.popleft()
            try:
                images = future.result()
            except BrokenProcessPool:
                self._pool = None
                images = [self._alone(decode, path) for path in part]
                waiting = deque((part, self._submit(decode, part)) for part, _ in waiting)
            yield from images

    def _alone(self, decode: Decode, path: Image) -> Raw:
        try:
            [image] = self._submit(decode, [path]).result()
        except BrokenProcessPool:
            self._pool = None
            return DIED
        return image

    def _submit(self, decode: Decode, part: Sequence[Image]) -> Future[list[Raw]]:
        try:
            return self._started().submit(each, decode, part)
        except BrokenProcessPool as error:
            broken: Future[list[Raw]] = Future()
            broken.set_exception(error)
            return broken

    def _started(self) -> ProcessPoolExecutor:
        """The processes; new ones that have answered, where there are none."""
        if self._pool is None:
            pool = ProcessPoolExecutor(self.workers, get_context("spawn"), initializer=prepare, initargs=(os.getpid(),))
            try:
                pool.submit(os.getpid).result()
            except (BrokenProcessPool, OSError) as error:
                raise InputError(
                    "no process to decode images could be started",
                    str(error),
                    'a script that starts them needs `if __name__ == "__main__":` around what it does; or workers=0',
                ) from None
            self._pool = pool
            weakref.finalize(
                self, pool.shutdown, wait=True, cancel_futures=True
            )  # by itself it ends while Python does, and says so
        return self._pool


def each(decode: Decode, part: Sequence[Image]) -> list[Raw]:
    return [decode(path) for path in part]


def prepare(parent: int) -> None:
    """In a new process: Ctrl-C is its parent's business, and it ends with it, also where that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCHED_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
