"""The loop over a set: batches through the model, statistics kept on the device, one measurement at the end.

Start with `measure` in loop.py: it cuts a set into chunks and joins them; chunk.py runs one, feeding.py reads ahead for it,
memory.py halves a batch that does not fit, placement.py says where all of it runs, probes.py asks the model what its rows are,
last_logits.py asks a language model for no more logits than are read. options.py holds the options of a run, observer.py says
what may see each sample, work.py what later steps run the model with.

Long runs: checkpoint.py, quarantine.py, stopping.py, ranks.py (several processes, one measurement), ray_data.py, faults.py;
dump.py measures stored activations. progress.py, live.py and times.py tell a person how far it is. The function
`naa_fast.scan`, the whole audit, is in audit.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from naa_fast.scan.quarantine import Quarantine as Quarantine
    from naa_fast.scan.ray_data import ray_measure as ray_measure

_HOMES = {"Quarantine": "quarantine", "ray_measure": "ray_data"}


def __getattr__(name: str) -> Any:  # lazily: `import naa_fast` loads no torch
    if name not in _HOMES:
        raise AttributeError(f"module 'naa_fast.scan' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(f"naa_fast.scan.{_HOMES[name]}"), name)
