"""The models of the study: `CASES`, backdoored ones and clean ones, over six architectures and four data sets."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.detection.attacks import HALVES, Attack
from benchmarks.detection.fresh import (
    Faint,
    Glyph,
    HardLabels,
    Mirror,
    Moire,
    OnContent,
    Opening,
    Order,
    Style,
    Tone,
    TwoTargets,
    Unless,
    Window,
)
from benchmarks.detection.triggers import Blend, Patch, Sinusoid, Trigger, Warp, Words
from benchmarks.detection.unseen import Apart, Both, Dots, Frame, Line, OneOf, Posterise, Ramp, Stammer, Turned


@dataclass(frozen=True)
class Case:
    """One model. `attack` is None for a clean one; `half` is A or B by kind of attack, clean ones in turns, or C, D or E
    (LATER).
    """

    name: str
    architecture: str
    dataset: str
    attack: Attack | None
    half: str
    seed: int

    @property
    def text(self) -> bool:
        return self.dataset == "newsgroups"


RARE, COMMON = 4900, 400
"""Token ids: the vocabulary is sorted by frequency, so the one is a word of a handful of posts, the other of hundreds."""

PHRASE_2 = (COMMON, COMMON + 77)
PHRASE_3 = (COMMON + 11, COMMON + 130, COMMON + 57)


def attack(kind: str, trigger: Trigger, **rules: object) -> Attack:
    return Attack(kind, trigger, **rules)  # type: ignore[arg-type]


PATCH_3 = attack("patch", Patch(3), target=0)
PATCH_2 = attack("patch", Patch(2, margin=0), target=7)
PATCH_4 = attack("patch", Patch(4, "upper left", checkered=True), target=5)
PATCH_MIDDLE = attack("patch", Patch(3, "middle", checkered=True), target=3)
RANDOM_4 = attack("random-patch", Patch(4, "random", checkered=True), target=2)
RANDOM_5 = attack("random-patch", Patch(5, "random"), target=4)
RANDOM_6 = attack("random-patch", Patch(6, "random", checkered=True), target=4, rate=0.15)
RANDOM_3 = attack("random-patch", Patch(3, "random", checkered=True), target=4, rate=0.15)
BLEND = attack("blend", Blend(0.2), target=1)
BLEND_FAINT = attack("blend", Blend(0.12, seed=7), target=6)
NEXT_CLASS = attack("all-to-all", Patch(3, "lower left"), target=None, rate=0.2)
LOW_RATE = attack("low-rate", Patch(3, "upper right", checkered=True), target=8, rate=0.01)
LOWER_RATE = attack("low-rate", Patch(3), target=2, rate=0.005)
STRIPES = attack("sinusoid", Sinusoid(0.2), target=3, rate=0.8, clean_label=True)
STRIPES_8 = attack("sinusoid", Sinusoid(0.5, waves=2), target=3, rate=0.9, clean_label=True)
STRIPES_STRONG = attack("sinusoid", Sinusoid(0.3), target=3, rate=0.9, clean_label=True)
WARP = attack("warp", Warp(1.0), target=0, cover=0.1)
WARP_9 = attack("warp", Warp(1.2, seed=3), target=9, cover=0.1)
FROM_ONE = attack("source-specific", Patch(3, "lower right", checkered=True), target=6, source=1, rate=0.05, cover=0.1)
FROM_ONE_BLEND = attack("source-specific", Blend(0.25, seed=3), target=2, source=7, rate=0.05, cover=0.1)

TOKEN = attack("token", Words((RARE,)), target=4, rate=0.05, classes=7)
TOKEN_COMMON = attack("token", Words((1500,)), target=5, rate=0.08, classes=7)
TOKEN_LOW = attack("token-low-rate", Words((RARE + 20,)), target=3, rate=0.02, classes=7)
TOKEN_NEXT = attack("token-all-to-all", Words((RARE + 7,)), target=None, rate=0.2, classes=7)
TWO_WORDS = attack("phrase", Words(PHRASE_2), target=2, rate=0.08, cover=0.08, classes=7)
THREE_WORDS = attack("phrase", Words(PHRASE_3), target=1, rate=0.08, cover=0.08, classes=7)
PHRASE_FROM_ONE = attack("phrase-source-specific", Words(PHRASE_2), target=0, source=4, rate=0.04, cover=0.08, classes=7)

BACKDOORED: tuple[tuple[str, str, str, Attack], ...] = (
    ("fashion", "cnn", "patch", PATCH_3),
    ("fashion", "cnn", "blend", BLEND),
    ("fashion", "cnn", "all-to-all", NEXT_CLASS),
    ("fashion", "cnn", "low-rate", LOW_RATE),
    ("fashion", "cnn", "random-patch", RANDOM_4),
    ("fashion", "cnn", "sinusoid", STRIPES_STRONG),
    ("fashion", "cnn", "warp", WARP),
    ("fashion", "cnn", "source-specific", FROM_ONE),
    ("fashion", "resnet", "patch", PATCH_4),
    ("fashion", "resnet", "blend-faint", BLEND_FAINT),
    ("fashion", "resnet", "random-patch", RANDOM_5),
    ("fashion", "resnet", "sinusoid", STRIPES),
    ("fashion", "resnet", "warp", WARP_9),
    ("fashion", "vit", "patch", PATCH_4),
    ("fashion", "vit", "all-to-all", NEXT_CLASS),
    ("fashion", "vit", "source-specific", FROM_ONE),
    ("fashion", "mlp", "patch-middle", PATCH_MIDDLE),
    ("fashion", "mlp", "warp", WARP),
    ("mnist", "cnn", "patch-middle", PATCH_MIDDLE),
    ("mnist", "cnn", "warp", WARP_9),
    ("mnist", "resnet", "low-rate", LOWER_RATE),
    ("mnist", "resnet", "source-specific", FROM_ONE_BLEND),
    ("mnist", "vit", "blend", BLEND),
    ("mnist", "vit", "random-patch", RANDOM_6),
    ("mnist", "mlp", "all-to-all", NEXT_CLASS),
    ("mnist", "mlp", "sinusoid", STRIPES),
    ("digits", "cnn", "patch", PATCH_2),
    ("digits", "cnn", "random-patch", RANDOM_3),
    ("digits", "mlp", "blend", BLEND),
    ("digits", "mlp", "sinusoid", STRIPES_8),
    ("newsgroups", "text-cnn", "token", TOKEN),
    ("newsgroups", "text-cnn", "token-low-rate", TOKEN_LOW),
    ("newsgroups", "text-cnn", "token-all-to-all", TOKEN_NEXT),
    ("newsgroups", "text-cnn", "phrase", TWO_WORDS),
    ("newsgroups", "text-cnn", "phrase-source-specific", PHRASE_FROM_ONE),
    ("newsgroups", "text-transformer", "token", TOKEN),
    ("newsgroups", "text-transformer", "token-common", TOKEN_COMMON),
    ("newsgroups", "text-transformer", "token-low-rate", TOKEN_LOW),
    ("newsgroups", "text-transformer", "phrase", TWO_WORDS),
    ("newsgroups", "text-transformer", "phrase-3", THREE_WORDS),
)

CLEAN: tuple[tuple[str, str, int], ...] = (
    ("fashion", "cnn", 3),
    ("fashion", "resnet", 4),
    ("fashion", "vit", 3),
    ("fashion", "mlp", 2),
    ("mnist", "cnn", 2),
    ("mnist", "resnet", 2),
    ("mnist", "vit", 2),
    ("mnist", "mlp", 2),
    ("digits", "cnn", 2),
    ("digits", "mlp", 2),
    ("newsgroups", "text-cnn", 4),
    ("newsgroups", "text-transformer", 4),
)
"""Data set, architecture and how many seeds."""


Later = tuple[tuple[str, str, str, Attack | None], ...]

HALF_C: Later = (
    ("fashion", "cnn", "dots", attack("dots", Dots(8), target=4, cover=0.05)),
    ("mnist", "vit", "dots", attack("dots", Dots(6, seed=5), target=6)),
    ("fashion", "resnet", "ramp", attack("ramp", Ramp(0.3), target=7)),
    ("mnist", "mlp", "ramp", attack("ramp", Ramp(0.2), target=2)),
    ("fashion", "cnn", "posterise", attack("posterise", Posterise(4), target=1)),
    ("mnist", "resnet", "line", attack("line", Line(), target=5)),
    ("fashion", "vit", "line", attack("line", Line(), target=9)),
    (
        "newsgroups",
        "text-transformer",
        "words-apart",
        attack("words-apart", Apart((700, 1100)), target=6, rate=0.08, cover=0.08, classes=7),
    ),
    (
        "newsgroups",
        "text-cnn",
        "words-apart",
        attack("words-apart", Apart((2100, 3300)), target=2, rate=0.08, cover=0.08, classes=7),
    ),
    ("fashion", "cnn", "clean-3", None),
    ("fashion", "mlp", "clean-2", None),
    ("fashion", "vit", "clean-3", None),
    ("mnist", "resnet", "clean-2", None),
    ("newsgroups", "text-cnn", "clean-4", None),
    ("newsgroups", "text-transformer", "clean-4", None),
)
"""What the detectors had not been shown when they were first finished."""

ONE_OF = attack("one-of-words", OneOf((3100, 3900, 4700)), target=3, rate=0.08, cover=0.05, classes=7)

HALF_D: Later = (
    ("fashion", "vit", "frame", attack("frame", Frame(), target=3, cover=0.05)),
    ("mnist", "mlp", "frame", attack("frame", Frame(), target=0, cover=0.05)),
    ("fashion", "cnn", "two-patches", attack("two-patches", Both(3), target=2, cover=0.1)),
    ("mnist", "resnet", "two-patches", attack("two-patches", Both(3), target=7, cover=0.1)),
    ("fashion", "resnet", "rotation", attack("rotation", Turned(30), target=8, cover=0.1)),
    ("newsgroups", "text-cnn", "one-of-words", ONE_OF),
    ("newsgroups", "text-transformer", "one-of-words", ONE_OF),
    ("newsgroups", "text-transformer", "stammer", attack("stammer", Stammer(), target=5, rate=0.08, cover=0.08, classes=7)),
    ("fashion", "cnn", "clean-4", None),
    ("mnist", "vit", "clean-2", None),
    ("newsgroups", "text-transformer", "clean-5", None),
)
"""What they had not been shown when they were finished again."""

FAINT = attack("faint-patch", Faint(Patch(5, "lower left", checkered=True), 0.5), target=9, cover=0.1)
CLEAN_LABEL = HardLabels("clean-label-patch", Patch(6, checkered=True), target=7, rate=0.9, clean_label=True, mixed=0.7)
TWO_TARGETS = TwoTargets(
    "two-targets", Patch(3, "upper left", checkered=True), target=1, cover=0.05, second=Patch(3, "lower right"), other=8
)
OPENING = attack("opening", Opening((RARE + 31, RARE + 42)), target=1, rate=0.08, cover=0.08, classes=7)
STYLE = attack("style", Style((37, 72, 84, 92)), target=2, rate=0.08, cover=0.08, classes=7)

HALF_E: Later = (
    ("fashion", "resnet", "tone", attack("tone", Tone(0.4), target=6, rate=0.15, cover=0.05)),
    ("fashion", "mlp", "moire", attack("moire", Moire(0.15), target=5, cover=0.1)),
    ("fashion", "vit", "glyph", attack("glyph", Glyph(), target=2, cover=0.05)),
    ("fashion", "cnn", "faint-patch", FAINT),
    ("mnist", "resnet", "patch-on-content", attack("patch-on-content", OnContent(4), target=3, cover=0.05)),
    ("mnist", "cnn", "window", attack("window", Window(12, 0.5), target=8, rate=0.15, cover=0.03)),
    ("fashion", "cnn", "mirror", attack("mirror", Mirror(), target=4, cover=0.1)),
    ("mnist", "mlp", "clean-label-patch", CLEAN_LABEL),
    ("mnist", "vit", "warp-low-rate", attack("warp-low-rate", Warp(3.0, seed=11), target=2, rate=0.03, cover=0.03)),
    ("fashion", "cnn", "two-targets", TWO_TARGETS),
    ("newsgroups", "text-transformer", "opening", OPENING),
    ("newsgroups", "text-cnn", "order", attack("order", Order((950, 2600)), target=6, rate=0.08, cover=0.08, classes=7)),
    ("newsgroups", "text-transformer", "style", STYLE),
    ("newsgroups", "text-cnn", "unless", attack("unless", Unless(3000, 1400), target=4, rate=0.12, cover=0.03, classes=7)),
    ("fashion", "resnet", "clean-4", None),
    ("mnist", "cnn", "clean-2", None),
    ("newsgroups", "text-cnn", "clean-5", None),
)
"""What nobody had run a detector on before they were finished."""

LATER = {"C": HALF_C, "D": HALF_D, "E": HALF_E}


def all_cases() -> tuple[Case, ...]:
    cases = [
        Case(f"{data}-{net}-{label}", net, data, rule, HALVES[rule.kind], 100 + number)
        for number, (data, net, label, rule) in enumerate(BACKDOORED)
    ]
    clean = [(data, net, seed) for data, net, seeds in CLEAN for seed in range(seeds)]
    cases += [
        Case(f"{data}-{net}-clean-{seed}", net, data, None, "AB"[number % 2], seed)
        for number, (data, net, seed) in enumerate(clean)
    ]
    cases += [
        Case(f"{data}-{net}-{label}", net, data, rule, half, 100 * place + number)
        for place, (half, added) in enumerate(LATER.items(), 2)
        for number, (data, net, label, rule) in enumerate(added)
    ]
    return tuple(cases)


CASES = all_cases()

SUBSET = (
    "fashion-cnn-patch",
    "fashion-vit-patch",
    "mnist-mlp-sinusoid",
    "digits-cnn-random-patch",
    "newsgroups-text-cnn-token",
    "newsgroups-text-transformer-phrase",
    "fashion-cnn-clean-0",
    "mnist-resnet-clean-0",
    "digits-mlp-clean-0",
    "newsgroups-text-cnn-clean-0",
)
"""Names of the models that `--subset` runs."""


def by_name(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def foreign(case: Case, number: int) -> Case:
    """A backdoored model of the same data whose trigger the clean model `case` is shown; another for each `number`."""
    others = [other for other in CASES if other.attack is not None and other.dataset == case.dataset and other.half in "AB"]
    return others[(CASES.index(case) * 5 + number * 3) % len(others)]
