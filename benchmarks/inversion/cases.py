"""Which models: constants were chosen on those of half A, and all others are reported apart (`group`)."""

from __future__ import annotations

from itertools import zip_longest

from benchmarks.detection.cases import CASES, Case, by_name
from benchmarks.inversion.shapes import SHAPES, Shape

SUBSET = (
    "fashion-cnn-patch",
    "fashion-cnn-clean-0",
    "digits-cnn-random-patch",
    "digits-cnn-clean-1",
    "newsgroups-text-cnn-token",
    "newsgroups-text-cnn-clean-0",
    "mnist-mlp-sinusoid",
    "mnist-mlp-clean-1",
    "fashion-mlp-moire",
    "fashion-mlp-clean-1",
    "digits-mlp-sinusoid",
    "digits-mlp-clean-1",
    "fashion-cnn-random-patch",
    "fashion-cnn-clean-1",
    "newsgroups-text-cnn-one-of-words",
    "newsgroups-text-cnn-clean-1",
    "mnist-mlp-frame",
    "fashion-mlp-clean-2",
    "mnist-mlp-clean-label-patch",
    "mnist-cnn-clean-2",
    "mnist-mlp-ramp",
    "mnist-cnn-clean-1",
    "fashion-mlp-warp",
    "newsgroups-text-cnn-clean-3",
    "fashion-cnn-faint-patch",
    "fashion-cnn-clean-3",
    "mnist-cnn-warp",
    "fashion-cnn-dots",
    "digits-cnn-patch",
    "digits-cnn-clean-0",
    "digits-mlp-blend",
    "digits-mlp-clean-0",
    "fashion-mlp-patch-middle",
    "fashion-mlp-clean-0",
    "mnist-mlp-clean-0",
    "newsgroups-text-cnn-phrase",
    "newsgroups-text-cnn-token-low-rate",
    "newsgroups-text-cnn-clean-2",
    "fashion-cnn-source-specific",
    "mnist-mlp-all-to-all",
    "fashion-cnn-blend",
    "mnist-cnn-patch-middle",
    "mnist-cnn-clean-0",
    "fashion-cnn-low-rate",
    "fashion-cnn-two-patches",
    "mnist-cnn-window",
    "fashion-cnn-sinusoid",
)
"""In the order they are run: attacks and clean models in turns, so that a run that ends early says something of both."""
SMALL = {
    "patch",
    "low-rate",
    "random-patch",
    "token",
    "token-low-rate",
    "faint-patch",
    "clean-label-patch",
    "one-of-words",
    "frame",
}
SMALL |= {"dots", "two-patches", "two-targets", "glyph", "patch-on-content", "window"}
SPREAD = {"blend", "sinusoid", "ramp", "moire", "tone", "phrase"}


QUICK = (("digits", "mlp"), ("digits", "cnn"), ("mnist", "mlp"), ("fashion", "mlp"))
KNOWN, FRESH = range(20, 27), range(27, 34)
"""Seeds of more clean models than the study has, of networks that train in seconds: false alarms are rare, and take many to
count. Those of KNOWN were run before the last rule was made, those of FRESH after."""


def cases(subset: bool) -> list[Case | Shape]:
    """Those that were known to us last, attacks and clean models of the others in turns: a run that ends early says something of
    both.
    """
    quick = [(data, net, seed) for seed in (*FRESH, *KNOWN) for data, net in QUICK]
    more: list[Case | Shape] = [Case(f"{data}-{net}-clean-{seed}", net, data, None, "F", seed) for data, net, seed in quick]
    if subset:
        return [*(by_name(name) for name in SUBSET), *more]
    new = [case for case in [*CASES, *more] if group(case) == "never looked at"]
    attacks, clean = ([case for case in new if (case.attack is None) is without] for without in (False, True))
    turns = [case for pair in zip_longest(attacks, clean) for case in pair if case is not None]
    return [*turns, *(case for case in [*CASES, *more] if group(case) != "never looked at"), *SHAPES]


def group(case: Case | Shape) -> str:
    """`chosen on`: limits were chosen while looking at models like it, of half A; `known`: it was run, and nothing chosen on it,
    before the rule of the other classes' spread was added; `never looked at`: first run after that.
    """
    if case.half == "A":
        return "chosen on"
    return "known" if case.name in SUBSET or (case.half == "F" and case.seed in KNOWN) else "never looked at"


def family(case: Case | Shape) -> str:
    """What kind of trigger it is, in three families, or `clean`."""
    if case.attack is None:
        return "clean"
    kind = case.attack.kind
    return "patches and tokens" if kind in SMALL else "blends, waves, phrases" if kind in SPREAD else "warps, rules, one class"
