"""What the study runs, in this order: fixed before anything of it ran.

Attacks are in three groups: WORKED on while proofs were written, seen ONCE by their authors before this file, NEVER looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

WORKED, ONCE, NEVER = "worked on", "seen once", "never looked at"
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
    """One model: what is planted in it (None: nothing), or which twin it is."""

    model: str
    attack: str | None
    twin: str = ""
    seed: int = 0

    @property
    def name(self) -> str:
        return f"{self.model}, {self.attack or self.twin}, {self.seed}"

    @property
    def group(self) -> str:
        return GROUPS[self.attack] if self.attack is not None else "no backdoor"

    @property
    def sets(self) -> tuple[str, ...]:
        return SETS if self.attack is None else tuple(f"{100 * share:g} %" for share in SHARES)


UNITS = (
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
