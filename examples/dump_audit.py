"""Audits activations that a serving engine stored; needs no model.

    python examples/dump_audit.py clean-dump/ suspect-dump/ report

A dump is a folder of LAYER.npy files or .safetensors shards, [samples, neurons] or [samples, tokens, neurons], and maybe a mask.
"""

from __future__ import annotations

import sys

from naa_fast.audit import compare
from naa_fast.scan.dump import measure_activations


def main(clean: str, suspect: str, report: str) -> int:
    audit = compare(measure_activations(clean), measure_activations(suspect))
    audit.save(report)
    print(audit.summary())
    return audit.verdict.exit_code


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
