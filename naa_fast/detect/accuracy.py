"""What was read: `clean_accuracy`, how often the model is right on the trusted set where that has labels, and `unread`.

Neither changes an outcome: they say how far one may be relied on.
"""

from __future__ import annotations

from dataclasses import dataclass

from naa_fast.measurement import Measurement

NEAR_CHANCE = 0.1
"""Share of the way from chance to no mistake (Cohen's kappa) below which a model knows next to nothing of its labels."""
FEWEST = 20
ALONE = 0.999
"""Agreement by chance beyond which labels and predictions are all of one class, and tell nothing."""


@dataclass(frozen=True)
class Accuracy:
    """`share` of `samples` labelled samples that are predicted as labelled; `chance`: the agreement that labels and predictions
    of those frequencies have if they know nothing of each other; `beyond`: labels that are no class of the model.
    """

    share: float
    samples: int
    chance: float
    beyond: int
    words: str

    @property
    def doubt(self) -> str:
        """Why the number may tell of a mistake in the audit; empty where it does not."""
        if self.beyond:
            return f"whether the labels are the model's classes: {self.beyond} of {self.samples} are beyond them ({self.words})"
        kappa = (self.share - self.chance) / max(1 - self.chance, 1e-9)
        if self.samples < FEWEST or kappa >= NEAR_CHANCE or self.chance > ALONE:
            return ""
        return (
            f"whether this is the model as it is used: clean accuracy is {self.share:.3f}, near chance ({self.chance:.3f}): "
            f"weights or preprocessing may be missing, or the labels count classes in another order ({self.words})"
        )


def clean_accuracy(clean: Measurement) -> Accuracy | None:
    """Of the trusted set; None where it has no labels, or the model no class scores."""
    labelled, right = clean.labelled
    total = int(labelled.sum())
    if total == 0:
        return None
    predictions = clean.predictions / max(int(clean.predictions.sum()), 1)
    chance = float((labelled[:-1] / total * predictions[:-1]).sum())
    words = ", ".join(clean.provenance.get("labels", ()))
    return Accuracy(float(right.sum() / total), total, chance, int(labelled[-1]), words)


def unread(clean: Measurement, suspect: Measurement) -> list[str]:
    """What was not read of the sets and the model, and why clean accuracy is in doubt, in sentences."""
    left_out = [line for measurement in (clean, suspect) for line in measurement.provenance.get("left_out", ())]
    accuracy = clean_accuracy(clean)
    return [*dict.fromkeys(left_out), *([accuracy.doubt] if accuracy is not None and accuracy.doubt else [])]
