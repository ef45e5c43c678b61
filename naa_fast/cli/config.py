"""`scan --config FILE.toml`: options from a file, of one scan or of several; and the file that says them again.

Keys are the options' names without the dashes in front, or with underscores; what the command line says goes before. Options of
several scans stand in `[[scan]]` tables, and what stands above these holds for all of them.
"""

from __future__ import annotations

import argparse
import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from naa_fast.errors import EXIT_FINDING, EXIT_INCONCLUSIVE, EXIT_PASS, EXIT_WARN, UsageError

OPTION = "--config"
TABLE = "scan"
NOT_KEPT = ("help", "config", "save_config", "debug", "json", "verbose", "resume")
"""What is about this one call, or about no scan at all."""
FORM = 'expected lines such as model = "net.py:build", and [[scan]] before the options of each of several models'
SEVERITY = (EXIT_PASS, EXIT_WARN, EXIT_INCONCLUSIVE, EXIT_FINDING)
"""What the exit code of several scans is: the last of these that one of them ended with, and an error before all."""


def given(words: Sequence[str]) -> Path | None:
    """The file that words of the command line name with OPTION; None without."""
    for place, word in enumerate(words):
        if word == OPTION and place + 1 < len(words):
            return Path(words[place + 1])
        if word.startswith(OPTION + "="):
            return Path(word.partition("=")[2])
    return None


def expanded(words: Sequence[str], path: Path, parser: argparse.ArgumentParser) -> list[tuple[str, list[str]]]:
    """Name and words of each scan of a config: the file's options that the command line does not have, then its own words.

    Raises:
        UsageError: the file is missing, no TOML, or has keys that are no options, or values of another type.
    """
    content = read(path)
    tables = content.pop(TABLE, None)
    if tables is not None and not (isinstance(tables, list) and tables and all(isinstance(entry, dict) for entry in tables)):
        raise UsageError(f"{path}: '{TABLE}' is no list of tables", FORM)
    typed = options_typed(words, parser)
    scans, folders = [], []
    if tables is not None and len(tables) > 1 and "save_config" in typed:
        raise UsageError(
            "--save-config with several scans", f"{path} has {len(tables)} of them", "each report has its own scan.toml"
        )
    if tables is not None and "out" in typed:
        raise UsageError("--out with several scans", f"{path} has {len(tables)} of them", "write out into the file, for each")
    words = without(words)
    for number, table in enumerate([{}] if tables is None else tables, 1):
        options = {**content, **table}
        name = str(options.pop("name", f"{number}" if tables is not None else ""))
        if tables is not None and "out" not in table:
            options["out"] = str(Path(str(content.get("out", "naa-report"))) / slug(name))
        scans.append((name, [*words, *options_of(options, path, parser, typed)]))
        folders.append(str(options.get("out")))
    if len(set(folders)) < len(folders):
        raise UsageError(
            f"{path}: two scans write to {max(folders, key=folders.count)}", "give each another out, or another name"
        )
    return scans


def without(words: Sequence[str]) -> list[str]:
    """The words without OPTION and its file."""
    kept: list[str] = []
    skip = False
    for word in words:
        if not skip and word != OPTION and not word.startswith(OPTION + "="):
            kept.append(word)
        skip = word == OPTION and not skip
    return kept


def report_at(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """What report.json says of a scan that was run; None where none was written."""
    try:
        content: dict[str, Any] = json.loads((arguments.out / "report.json").read_text("ascii"))
        return content
    except (OSError, ValueError):
        return None


def read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {OPTION} {path}", str(error.strerror), *near(path)) from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{OPTION} {path} is no TOML", str(error), FORM) from None


def near(path: Path) -> list[str]:
    from naa_fast.files import nearest_files

    return nearest_files(path)


def slug(name: str) -> str:
    """A name as a folder's."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in name).strip(".")[:100] or "scan"


def actions_of(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """A verb's options by their names without the dashes."""
    return {name[2:]: action for action in parser._actions for name in action.option_strings if name.startswith("--")}


def options_typed(words: Sequence[str], parser: argparse.ArgumentParser) -> set[str]:
    """What the words decide, by the names argparse keeps it under."""
    actions = actions_of(parser)
    names = [word[2:].partition("=")[0] for word in words if word.startswith("--")]
    return {actions[name].dest for name in names if name in actions}


def options_of(options: Mapping[str, Any], path: Path, parser: argparse.ArgumentParser, typed: set[str]) -> list[str]:
    actions = actions_of(parser)
    words = []
    for key, value in options.items():
        name = key.replace("_", "-")
        if name not in actions or actions[name].dest in ("help", "config"):
            close = difflib.get_close_matches(name, actions, n=1)
            raise UsageError(
                f"{path}: '{key}' is no option of scan",
                *[f"did you mean {name_near}?" for name_near in close],
                "for all: naa-fast scan --help",
            )
        if actions[name].dest not in typed:
            words += words_of(name, value, actions[name], path)
    return words


def words_of(name: str, value: Any, action: argparse.Action, path: Path) -> list[str]:
    """An option with its value as the command line takes it."""
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise UsageError(f"{path}: {name} is {value!r}", "expected true or false")
        return [f"--{name}"] if value else []
    if action.dest == "model_arg" and isinstance(value, dict):
        return ["--model-arg", *(f"{key}={json.dumps(item)}" for key, item in value.items())] if value else []
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(part, str | int | float) and not isinstance(part, bool) for part in values):
        raise UsageError(f"{path}: {name} is {value!r}", "expected a text or a number, or a list of them")
    if action.nargs == "+":
        return [f"--{name}", *map(str, values)] if values else []
    if isinstance(value, list) and action.dest != "format":
        raise UsageError(f"{path}: {name} is a list", "expected one value")
    return [f"--{name}={','.join(map(str, values))}"] if values else []


def toml_of(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> str:
    """The options as resolved, in the form that OPTION takes; what is not decided is left out."""
    lines = ["# The options of a scan as resolved: naa-fast scan --config FILE"]
    seen = {*NOT_KEPT}
    for name, action in actions_of(parser).items():
        value = getattr(arguments, action.dest, None)
        if action.dest in seen or value is None or value in ([], ()):
            continue
        seen.add(action.dest)
        lines.append(f"{name} = {literal(value)}")
    return "\n".join(lines) + "\n"


def literal(value: Any) -> str:
    """A value in TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(literal, value))}]"
    text = str(value).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")  # a JSON string is one of TOML, but for DEL


def worst(codes: Sequence[int]) -> int:
    """The exit code of several scans."""
    errors = [code for code in codes if code not in SEVERITY]
    return errors[0] if errors else max(codes, key=SEVERITY.index)


def table_of(rows: Sequence[tuple[str, int, Mapping[str, Any] | None, Path]]) -> list[str]:
    """One line a scan: name, outcome, exit code, score, the largest difference, and where its report is."""
    from naa_fast.report.words import printable

    cells = [("scan", "outcome", "exit code", "score", "largest z", "report")]
    for name, code, report, folder in rows:
        known = ("error", "", "") if report is None else (str(report["outcome"]), *map(shown, (report["score"], report["z"])))
        cells.append(
            (printable(name, 40), known[0], str(code), known[1], known[2], "" if report is None else printable(str(folder)))
        )
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"
