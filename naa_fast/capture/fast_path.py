"""torch's fused attention path, which hooks break: switched off while a model is read, and back as it was."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch.backends import mha

_lock = threading.Lock()
_users = 0
_before = True


@contextmanager
def fast_path_off() -> Iterator[None]:
    """Inside, `nn.TransformerEncoder` and `nn.MultiheadAttention` run layer by layer; the last one out restores the switch.

    In eval mode an encoder with a padding mask hands nested tensors to layers that, once they are hooked, cannot take them. The
    switch is one for the whole process, so users are counted: scans in other threads, and one inside another, leave it off.
    """
    global _users, _before
    with _lock:
        if not _users:
            _before = mha.get_fastpath_enabled()
            mha.set_fastpath_enabled(False)
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                mha.set_fastpath_enabled(_before)
