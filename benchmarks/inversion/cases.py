"""Which models: constants were chosen on those of half A, and all others are reported apart (`group`)."""

from __future__ import annotations

from benchmarks.detection.cases import CASES, Case, by_name

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
SEEDS = range(20, 27)
"""Of more clean models than the study has, of networks that train in seconds: false alarms are rare, and take many to count."""


def cases(subset: bool) -> list[Case]:
    more = [Case(f"{data}-{net}-clean-{seed}", net, data, None, "F", seed) for seed in SEEDS for data, net in QUICK]
    return [*([by_name(name) for name in SUBSET] if subset else CASES), *more]


def group(case: Case) -> str:
    """`chosen on` or `never looked at`."""
    return "chosen on" if case.half == "A" else "never looked at"


def family(case: Case) -> str:
    """What kind of trigger it is, in three families, or `clean`."""
    if case.attack is None:
        return "clean"
    kind = case.attack.kind
    return "patches and tokens" if kind in SMALL else "blends, waves, phrases" if kind in SPREAD else "warps, rules, one class"
