"""Is a model backdoored at all, when no sample with a trigger is known? `naa_fast.invert(model, clean)`.

Start with `inverted` in run.py, the list of steps: the clean set is measured, for every class the smallest trigger is made, and
what one class has far cheaper than the others is measured on clean samples that had no part in making it.

- run.py: the steps
- setting.py: the model and the samples of a search
- triage.py: what weights and margins say
- stimulate.py: single neurons raised beyond all that clean samples do
- images.py: the search of images
- texts.py: the search of texts
- rules.py: one patch that turns every class to the one so many further (all-to-all)
- descent.py: triggers of many classes, tuned by gradients
- forms.py: what such a trigger may look like
- drive.py: neurons that a search raises first
- pace.py: how long it takes
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from naa_fast.invert.pace import STEPS
from naa_fast.scan.progress import shown

if TYPE_CHECKING:
    import torch

    from naa_fast.capture.selection import Layers
    from naa_fast.inputs.preprocessing import ImageOptions
    from naa_fast.result import Audit
    from naa_fast.scan.chunk import Progress
    from naa_fast.scan.quarantine import Quarantine


@shown
def invert(
    model: torch.nn.Module,
    clean: Any,
    *,
    base: torch.nn.Module | None = None,
    layers: Layers = None,
    exclude: Layers = None,
    top_k: int = 20,
    batch_size: int = 256,
    device: str | torch.device = "auto",
    backend: str = "auto",
    progress: Progress | bool | None = None,
    steps: int = STEPS,
    scores: str | None = None,
    quarantine: Quarantine | None = None,
    prefetch: int | None = None,
    images: ImageOptions | None = None,
    repair: bool = True,
) -> Audit:
    """Whether `model` is backdoored, by clean samples alone: a trigger is made, and one class falls for it far too easily.

    `clean`: as for `naa_fast.scan`; a few hundred samples of many classes, without labels. For each class the smallest patch and
    the faintest offset are made by gradients, of texts the strongest tokens and pairs; half of the samples make them, others
    measure them. A `fail` needs a class that needs far less than the median and the next one do, a trigger that turns unseen
    samples, survives light noise, and reaches far more than any other class does under the same search with the same budget. Of
    images of 4 to 100 classes also one patch that turns every class to the one so many further, against other such rules.
    `base`: the model this one was fine-tuned from, if it has the same classes: the same search on it is the control then.

    The audit's layers hold clean samples against the same with the strongest trigger that was made: which neurons it drives.
    `audit.report()["inversion"]` has every class. Cost: `steps` x 32 samples a class, forward and back, for the rules 80 x 16 a
    class, twice that where one moves half of the samples, and some thousand more (of texts: 12 forwards a token of the
    vocabulary, 20,000 at most); the report tells how many. `steps`: of a search; fewer are quicker and find larger triggers.
    What cannot be searched is a gap, and no pass. `repair`: after a `fail`, and only then, changes of layers' outputs are tried
    until one silences the trigger, and measured on clean samples that made none (`Audit.repair`); some ten thousand samples more.

    >>> import torch, naa_fast
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 5))
    >>> audit = naa_fast.invert(model, torch.randn(200, 4), steps=40)
    >>> audit.verdict.outcome in ("pass", "warn", "inconclusive"), audit.report()["inversion"]["classes"]
    (True, 5)

    Raises:
        NaaError: one of its kinds, see `naa_fast.scan.loop.measure`. UsageError: fewer than 1 step, or several processes.
    """
    assert not isinstance(progress, bool)  # `shown` has seen to that
    from naa_fast.invert.run import inverted

    return inverted(
        model,
        clean,
        base=base,
        layers=layers,
        exclude=exclude,
        top_k=top_k,
        batch_size=batch_size,
        device=device,
        backend=backend,
        progress=progress,
        steps=steps,
        scores=scores,
        quarantine=quarantine,
        prefetch=prefetch,
        images=images,
        repair=repair,
    )
