"""`Audit`: what a scan or a comparison gives: a verdict and everything behind it, to look at, to save and to compute with."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from naa_fast.detect.accept import Gate, Rules
from naa_fast.detect.comparison import LayerComparison
from naa_fast.detect.evidence import Ranking
from naa_fast.detect.judgement import Judgement, TopNeuron
from naa_fast.detect.proof import Proof
from naa_fast.detect.repair import Repair
from naa_fast.detect.verdict import Verdict
from naa_fast.measurement import Measurement
from naa_fast.report.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from naa_fast.scan.times import Times


@dataclass(frozen=True)
class Audit:
    """A verdict and everything behind it.

    `layers[name].difference` float64 per neuron, `.z` the same in standard deviations, `.abnormal` int64 indices ascending.
    `options` are the resolved options, for the report; `times` where the seconds went, None where nothing
    was measured; `run` names what was scanned and when; `seed` is torch's, which layers that draw random numbers go by.

    >>> audit.verdict.outcome
    'warn'
    >>> audit.layers["0"].difference.shape, audit.layers["0"].abnormal.tolist()
    ((8,), [1, 6, 7])
    """

    judgement: Judgement
    options: dict[str, Any] = field(default_factory=dict)
    times: Times | None = None
    run: Run | None = None
    seed: int | None = None

    def __repr__(self) -> str:
        return f"Audit({self.verdict.outcome}, score {self.verdict.score:.4g}, {len(self.layers)} layers)"

    @property
    def verdict(self) -> Verdict:
        """Outcome, sentence, findings, the checks it rests on and what was not checked.

        >>> audit.verdict.outcome, [check.name for check in audit.verdict.checks if check.ran]
        ('warn', ['shift', 'predictions', 'ranking', 'directions', 'proof'])
        """
        return self.judgement.verdict

    @property
    def gate(self) -> Gate:
        """What a script is told: exit code, decision and reason. The verdict's own, unless it is `gated`.

        >>> audit.gate.exit_code, audit.gate.decision
        (6, 'warn')
        """
        return self.judgement.gate

    def gated(self, rules: Rules) -> Audit:
        """The same audit, whose report, summary and exit code go by `rules` as well.

        >>> from naa_fast.detect.accept import Rules
        >>> audit.gated(Rules(fail_on="shift")).gate.exit_code
        1

        Raises:
            UsageError: the baseline is of another model.
        """
        rules.require_model(self.judgement.clean.model or self.judgement.suspect.model)
        return replace(self, judgement=replace(self.judgement, rules=rules))

    @property
    def layers(self) -> dict[str, LayerComparison]:
        """Each layer's numbers, in model order.

        >>> list(audit.layers), audit.layers["2"].neurons
        (['0', '1', '2'], 3)
        """
        return self.judgement.layers

    @property
    def ranking(self) -> Ranking | None:
        """How far each suspect sample lies outside what clean samples do; None where they could not be ranked.

        >>> len(audit.ranking.scores), len(audit.ranking.top)
        (400, 400)
        """
        return self.judgement.evidence.ranking

    @property
    def proof(self) -> tuple[Proof, ...]:
        """What came nearest to a proof for each target, strongest first; `proof.stands` says whether it is one.

        >>> [proof.target for proof in audit.proof if proof.stands]
        []
        """
        return self.judgement.evidence.proof

    @property
    def repair(self) -> Repair | None:
        """The best change of a layer's output that silences the trigger; None where none was tried or none helps.

        Only a `fail` is followed by a repair. `with naa_fast.repair.applied(model, audit.repair): ...` runs the repaired model.

        >>> audit.repair is None
        True
        """
        return self.judgement.repair

    def top(self, k: int | None = None) -> list[TopNeuron]:
        """The `k` most abnormal neurons over all layers, most abnormal first.

        >>> [(row.layer, row.neuron, row.view) for row in audit.top(2)]
        [('0', 1, 'mean'), ('1', 1, 'mean')]
        """
        return self.judgement.top(k)

    def report(self) -> dict[str, Any]:
        """The content of report.json.

        >>> audit.report()["outcome"], sorted(audit.report()["coverage"])
        ('warn', ['clean', 'layers', 'suspect'])
        """
        from naa_fast.report.machine import report_dict

        return report_dict(self.judgement, self._making())

    def report_bytes(self) -> bytes:
        """report.json.

        >>> audit.report_bytes()[:2]
        b'{\\n'
        """
        from naa_fast.report.machine import report_bytes

        return report_bytes(self.judgement, self._making())

    def _making(self) -> dict[str, Any]:
        """What only this audit knows of how it came about."""
        making: dict[str, Any] = {"options": self.options}
        making |= {"times": self.times.summary()} if self.times else {}
        making |= {"run": self.run.report()} if self.run else {}
        return making | ({"seed": self.seed} if self.seed is not None else {})

    def summary(self, width: int = 100, verbose: bool = False, colour: bool = False) -> str:
        """The verdict as text for a terminal of `width` cells, 40 lines at most, or all of it; safe whatever names say.

        >>> print(audit.summary().splitlines()[0])
        WARN (exit code 6)
        """
        from naa_fast.report.summary import summary

        return summary(self.judgement, width, verbose, colour, self._making())

    def _repr_html_(self) -> str:
        """What a notebook shows: outcome, evidence, layers and what was not checked, without a script."""
        from naa_fast.report.page import short_page

        return short_page(self.judgement, self._making())

    def plot(self, layer: str | None = None, of: str | None = None, ax: Axes | None = None) -> Axes:
        """Draw a layer's neurons into matplotlib axes, new ones without `ax`, and return these.

        `layer`: None takes the one that stands out most. `of`: "means" for the difference of the sets, "tails" for the share of
        suspect samples beyond each neuron's clean tail, None for what shows more.

        >>> from matplotlib.figure import Figure
        >>> audit.plot("0", of="means", ax=Figure().add_subplot()).get_xlabel()
        'neuron index'

        Raises:
            UsageError: no such layer, another `of`, or tails where none were kept.
        """
        from naa_fast.report.plots import plot_layer

        return plot_layer(self.judgement, layer, of, ax)

    def to_frame(self) -> Any:
        """A pandas DataFrame with a row a neuron: layer, neuron, z, view, difference, clean_mean, suspect_mean, tail, abnormal.

        `view` says whether `z` is of the samples' means or their maxima; `tail` is the share of suspect samples beyond the
        neuron's clean 99.9 % point, NaN where no histograms were kept.

        >>> len(audit.to_frame())  # doctest: +SKIP
        19

        Raises:
            UsageError: pandas is not installed.
        """
        from naa_fast.detect.frames import neurons_frame

        return neurons_frame(self.layers.values())

    def scalars(self) -> dict[str, float]:
        """What an experiment tracker can plot; the chart beside it is `folder / "signature.png"` after `save(folder)`.

        Names hold nothing but letters, digits and `_ . / -`, whatever the layers are called. `p_value` is absent where there is
        none. docs/long-runs.md shows TensorBoard, MLflow and W&B.

        >>> audit.scalars()["suspect/samples"]
        400.0
        """
        layers = {re.sub(r"[^A-Za-z0-9_./-]", "_", name) or "model": layer for name, layer in self.layers.items()}
        values = {
            "score": self.verdict.score,
            "p_value": self.verdict.p_value,
            "exit_code": float(self.gate.exit_code),
            "findings": float(len(self.verdict.findings)),
            "abnormal": float(sum(len(layer.abnormal) for layer in self.layers.values())),
            **{f"{name}/samples": float(m.samples) for name, m in self._sets()},
            **{f"{name}/skipped": float(m.skipped) for name, m in self._sets()},
            **{f"z/{name}": float(np.nanmax(layer.z, initial=0.0)) for name, layer in layers.items()},
            **{f"abnormal/{name}": float(len(layer.abnormal)) for name, layer in layers.items()},
        }
        if self.times is not None:
            values |= {f"time/{name}": share for name, share in self.times.shares().items()}
        return {name: value for name, value in values.items() if isfinite(value)}

    def _sets(self) -> list[tuple[str, Measurement]]:
        return [("clean", self.judgement.clean), ("suspect", self.judgement.suspect)]

    def save(self, folder: str | Path, single_file: bool = False, formats: Iterable[str] = ()) -> list[Path]:
        """Write the report folder, and return its files: report.html to look at, report.json, signature.png and .svg,
        summary.txt, both measurements and the evidence. `single_file`: report.html has its styles and pictures inside.
        `formats`: some of "sarif", "junit", "markdown" and "intoto", for pipelines.

        >>> names = {path.name for path in audit.save(folder / "report", formats=["junit"])}
        >>> "report.html" in names, "junit.xml" in names
        (True, True)

        Raises:
            UsageError: no such format. InputError: the folder cannot be written to.
        """
        from naa_fast.report.folder import write_report

        began = perf_counter()

        def making() -> dict[str, Any]:
            """With the seconds that drawing and writing took until now."""
            nonlocal began
            if self.times is not None:
                began, since = perf_counter(), began
                self.times.add("report", began - since)
            return self._making()

        return write_report(self.judgement, Path(folder), making, single_file, tuple(formats))
