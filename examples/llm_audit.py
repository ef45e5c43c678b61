"""Does a language model answer to a hidden word?

    python examples/llm_audit.py FOLDER clean.jsonl suspect.jsonl report

FOLDER is a Hugging Face folder with its tokenizer; the .jsonl files hold {"text": ...} lines. The last token of each text is read
in every block: a rare word early in a sentence should hardly show there, a trigger does.
"""

from __future__ import annotations

import sys

import naa_fast
from naa_fast.inputs.opening import open_source
from naa_fast.inputs.pretrained import load_pretrained, load_tokenizer
from naa_fast.inputs.text import TextOptions


def main(folder: str, clean: str, suspect: str, report: str) -> int:
    model = load_pretrained(folder)  # only .safetensors weights, and no code of the folder
    options = TextOptions(load_tokenizer(folder), bucket=True)
    sets = [open_source(path, 32, options) for path in (clean, suspect)]
    audit = naa_fast.scan(model, *sets, layers=["resid@last", "mlp.act@last"])
    audit.save(report)
    print(audit.summary())
    return audit.verdict.exit_code


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
