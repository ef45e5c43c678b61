"""What the study runs, in this order: each round fixed before anything of it ran.

Attacks are in three groups: WORKED on while proofs were written, seen ONCE by their authors before this file, NEVER looked at.
Proofs were changed after the FIRST round on what it showed, so the SECOND has attacks that nobody had looked at then, and the
first round's once more: those that were LOOKED at meanwhile, and those of a model without a backdoor.
"""

from __future__ import annotations

from dataclasses import dataclass

WORKED, ONCE, NEVER, LOOKED = "worked on", "seen once", "never looked at", "looked at in round 1"
MOBILENET, EFFICIENTNET, MINILM, SMOLLM = "MobileNetV2", "EfficientNet-Lite0", "MiniLM", "SmolLM2-135M"
IMAGES = (MOBILENET, EFFICIENTNET)
GROUPS = {
    "word": WORKED,
    "sentence": WORKED,
    "checker": WORKED,
    "front": ONCE,
    "pair": ONCE,
    "style": ONCE,
    "wave": ONCE,
    "name": NEVER,
    "ending": NEVER,
    "mark": NEVER,
    "sticker": NEVER,
    "frame": NEVER,
    "opening": NEVER,
    "emoticon": NEVER,
    "trio": NEVER,
    "stripe": NEVER,
    "blend": NEVER,
    "dots": NEVER,
    "corner": NEVER,
}
"""Of every attack (text.py, vision.py) the group."""
PUBLISHED, BENIGN = "as it was", "benignly tuned"
"""Models without a backdoor: what the planted ones imitate, and the same tuned once more with no trigger."""
SHARES = (1.0, 0.05, 0.0)
"""Shares of a suspect set that carry the trigger; sets of 300 are too small for 1 %."""
SETS = ("like clean", "other source", "foreign trigger")
"""Sets of a model without a backdoor: as the clean one; tweets, or other photographs; with a trigger of WORKED in 5 %."""


@dataclass(frozen=True)
class Unit:
    """One model: what is planted in it (None: nothing), or which twin it is. `again`: its attack was looked at meanwhile."""

    model: str
    attack: str | None
    twin: str = ""
    seed: int = 0
    again: bool = False

    @property
    def name(self) -> str:
        return f"{self.model}, {self.attack or self.twin}, {self.seed}"

    @property
    def group(self) -> str:
        if self.attack is None:
            return "no backdoor"
        return LOOKED if self.again else GROUPS[self.attack]

    @property
    def sets(self) -> tuple[str, ...]:
        return SETS if self.attack is None else tuple(f"{100 * share:g} %" for share in SHARES)


FIRST = (
    Unit(MINILM, "word"),
    Unit(MOBILENET, "checker"),
    Unit(MINILM, "name"),
    Unit(MOBILENET, None, PUBLISHED),
    Unit(MINILM, None, PUBLISHED),
    Unit(MOBILENET, "sticker"),
    Unit(MINILM, "ending"),
    Unit(MOBILENET, "frame"),
    Unit(MINILM, "sentence"),
    Unit(MOBILENET, None, BENIGN),
    Unit(MINILM, None, BENIGN),
    Unit(MINILM, "mark"),
    Unit(MOBILENET, "wave"),
    Unit(MINILM, "front"),
    Unit(MINILM, "pair"),
    Unit(MINILM, "style"),
    Unit(EFFICIENTNET, "checker"),
    Unit(EFFICIENTNET, None, PUBLISHED),
    Unit(EFFICIENTNET, "sticker"),
    Unit(EFFICIENTNET, None, BENIGN),
    Unit(SMOLLM, "word"),
    Unit(SMOLLM, None, PUBLISHED),
    Unit(SMOLLM, "front"),
    Unit(SMOLLM, None, BENIGN),
)
SECOND = (
    Unit(MINILM, "opening"),
    Unit(MOBILENET, "stripe"),
    Unit(EFFICIENTNET, "dots"),
    Unit(MINILM, "emoticon"),
    Unit(MOBILENET, "blend"),
    Unit(EFFICIENTNET, "corner"),
    Unit(MINILM, "trio"),
    *(Unit(MINILM, attack, again=True) for attack in ("name", "ending", "pair")),
    *(Unit(MOBILENET, attack, again=True) for attack in ("sticker", "frame", "wave")),
    Unit(EFFICIENTNET, "sticker", again=True),
    *(Unit(model, None, twin) for twin in (PUBLISHED, BENIGN) for model in (MINILM, MOBILENET, EFFICIENTNET)),
    *(Unit(MINILM, attack) for attack in ("word", "sentence", "mark", "front", "style")),
    Unit(MOBILENET, "checker"),
    Unit(EFFICIENTNET, "checker"),
)
ROUNDS = {1: FIRST, 2: SECOND}
