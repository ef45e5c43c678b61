"""The table of refusals in docs/inputs.md, read from the code: `python tools/refusals.py` renews it, `--check` says if it is old.

A refusal is an UnsafeInput: the command ends with exit code 5 and nothing was read that could run code.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "inputs.md"
BEGIN, END = "<!-- refusals: made by tools/refusals.py -->", "<!-- end of refusals -->"
RAISERS = {"UnsafeInput": 0, "refused": 1}
"""What makes a refusal, and which of its arguments the reason is."""


def words(node: ast.expr) -> str:
    """A message as a reader meets it, with an ellipsis for what is filled in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join("…" if isinstance(part, ast.FormattedValue) else str(getattr(part, "value", "")) for part in node.values)
    if isinstance(node, ast.BinOp):
        return words(node.left) + words(node.right)
    if isinstance(node, ast.Dict):
        return " / ".join(words(value) for value in node.values)
    if isinstance(node, ast.IfExp):
        return f"{words(node.body)} / {words(node.orelse)}"
    return "…"


def name_of(node: ast.expr) -> str:
    """The name a value goes by, or that it is taken from by a key; empty for any other."""
    node = node.value if isinstance(node, ast.Subscript) else node
    return node.id if isinstance(node, ast.Name) else ""


def named(tree: ast.Module) -> dict[str, ast.expr]:
    """What names hold in a file, so that a message that was put together before can be read."""
    return {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def refusals() -> Iterator[tuple[str, str]]:
    """`(file, message)` of every refusal in the package, in the order of files and lines."""
    for path in sorted((ROOT / "naa_fast").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        held = named(tree)
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
        for call in sorted(calls, key=lambda node: node.lineno):
            name = call.func.id if isinstance(call.func, ast.Name) else ""
            if name not in RAISERS or (name == "UnsafeInput" and len(call.args) < 2):
                continue
            arguments = [held.get(name_of(node), node) for node in call.args]
            message = [words(node) for node in arguments[RAISERS[name] :][:2]]
            if message[-1] == "…" and len(message) > 1 and name == "UnsafeInput" and path.stem == "exported":
                continue  # the helper that the reasons below it go through
            yield str(path.relative_to(ROOT)), ": ".join(part for part in message if part != "…")


def table() -> str:
    rows = "".join(f"| `{file}` | {message.replace('|', '/')} |\n" for file, message in refusals())
    return f"{BEGIN}\n| where | what it says |\n|---|---|\n{rows}{END}"


def renewed(text: str) -> str:
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + table() + after


def main() -> int:
    text = DOCUMENT.read_text(encoding="utf-8")
    if "--check" in sys.argv:
        return int(renewed(text) != text)
    DOCUMENT.write_text(renewed(text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
