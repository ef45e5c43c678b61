"""Neural Cleanse and MM-BD in short versions of our own, after the papers."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import nn

from naa_fast.capture import ClassScores
from naa_fast.inputs.batches import Batch
from naa_fast.invert.descent import descend
from naa_fast.invert.forms import Masked
from naa_fast.invert.pace import STEPS
from naa_fast.invert.setting import Setting
from naa_fast.invert.triage import margin_p_value, maximum_margins
from naa_fast.proof.images import CleanImages
from naa_fast.proof.transplant import PredictedSamples, Transplant
from naa_fast.scan.placement import Placement


def setting_of(model: nn.Module, x: torch.Tensor, classes: int) -> Setting:
    scores = ClassScores()
    with torch.no_grad():
        output = model(x)
    scores.read(output, len(x))
    batch = Batch((x,), {}, len(x), None)
    transplant = Transplant(model, Placement.of(model, "auto"), 256, batch, False, scores)
    return Setting.of(transplant, PredictedSamples([(batch, output.argmax(1).numpy())]), CleanImages.of(x.numpy()), classes)


def rivals(model: nn.Module, x: torch.Tensor, classes: int) -> dict[str, Any]:
    """`nc`: the anomaly index of the smallest mask's L1 norm (Wang et al., IEEE S&P 2019, section V; flagged above 2), with
    as many steps as ours. `mmbd`: 1 - p of the largest maximum margin (Wang et al., IEEE S&P 2024; flagged above .95).
    """
    setting = setting_of(model, x, classes)
    began = time.process_time()
    runs = descend(setting, lambda count: Masked.begun(setting, count), range(classes), STEPS, Masked.pace)
    sizes = torch.cat([run.sizes for run in runs]).numpy().astype(float)
    sizes = np.where(np.isfinite(sizes), sizes, 1.0)
    deviation = 1.4826 * float(np.median(np.abs(sizes - np.median(sizes))))
    index = float((np.median(sizes) - sizes.min()) / max(deviation, 1e-9))
    spent = setting.transplant.forwards, setting.backwards
    found = {
        "nc": {
            "score": index,
            "flagged": index > 2,
            "target": int(sizes.argmin()),
            "cpu_s": time.process_time() - began,
            "forwards": spent[0],
            "backwards": spent[1],
        }
    }
    began = time.process_time()
    p_value, target = margin_p_value(maximum_margins(setting))
    found["mmbd"] = {
        "score": 1 - p_value,
        "flagged": p_value < 0.05,
        "target": target,
        "cpu_s": time.process_time() - began,
        "forwards": setting.transplant.forwards - spent[0],
        "backwards": setting.backwards - spent[1],
    }
    return found
