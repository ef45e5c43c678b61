"""Does an image classifier answer to a hidden patch?

    python examples/vision_audit.py weights.safetensors clean/ suspect.tar report

Images come from folders or .tar archives. Replace `build` by the architecture the weights belong to, or by
`load_model("timm:resnet50", {})` where timm is installed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from torch import nn

import naa_fast
from naa_fast.inputs.weights import load_weights, read_weights


def build() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()),
        *(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 10)),
    )


def main(weights: str, clean: str, suspect: str, report: str) -> int:
    model = build()
    load_weights(model, read_weights(Path(weights)), Path(weights))  # runs nothing that is in the file
    audit = naa_fast.scan(model, clean, suspect)
    audit.save(report)
    for neuron in audit.top(5):
        print(f"{neuron.layer} {neuron.neuron}: {neuron.z:.1f} standard deviations")
    print(audit.verdict.sentence)
    return audit.verdict.exit_code


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
