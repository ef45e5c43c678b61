"""`main`: words in, an exit code out. Every failure ends here, as lines."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from naa_fast.cli import bench, compare, config, demo, doctor, invert, measure, merge, prove, rank, repair, report, scan
from naa_fast.cli.shared import Log, clean, emit, note, quiet_stdout, tell
from naa_fast.errors import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_STOPPED, NaaError, UsageError
from naa_fast.report.files import PREVIOUS, REPORT

PROGRAM = "naa-fast"
VERBS = (scan, invert, rank, measure, merge, prove, compare, report, repair, demo, doctor, bench)

EPILOG = """exit codes: 0 pass, 1 fail (a finding of --fail-on), 2 error, 3 inconclusive (also a warn with a gap), 4 usage,
5 refused unsafe input, 6 warn, 75 stopped and can be resumed; 130 interrupted"""


class Parser(argparse.ArgumentParser):
    """argparse, with its complaints in this project's form and exit code, and `examples` at the end of its help."""

    examples: Sequence[str] = ()
    words: Sequence[str] = ()
    """What is parsed, for what is said of it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def format_help(self) -> str:
        shown = "".join(f"  {line}\n" for line in self.examples)  # as they are: a wrapped command cannot be copied
        return super().format_help() + (f"\nexamples:\n{shown}" if shown else "")

    @property
    def verbs(self) -> dict[str, Parser]:
        """The parsers of the verbs, by name."""
        return dict(self._subparsers._group_actions[0].choices or {}) if self._subparsers is not None else {}

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.words = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        if message.endswith("required: VERB"):
            verbs = ", ".join(verb.__name__.rpartition(".")[2] for verb in VERBS)
            raise UsageError("no verb given", f"verbs: {verbs}", f"for more: {self.prog} --help")
        raise UsageError(message, *self.near(message), f"for more: {self.prog} --help")

    def near(self, message: str) -> list[str]:
        """What was meant: of a choice the nearest one, of an option those of the verb that are called alike or begin so."""
        choice = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if choice is not None:
            return meant(choice[1], re.findall(r"[\w-]+", choice[2]))
        if message.startswith(("unrecognized arguments:", "the following arguments are required:")):
            verb = self.verbs.get(verb_of(self.words), self)
            known = [name for action in verb._actions for name in action.option_strings]
            given = [word.partition("=")[0] for word in self.words if word.startswith("--")]
            unknown = [word for word in given if word not in known]
            return [line for word in unknown for line in meant(word, known)]
        return []


def meant(word: str, known: Iterable[str]) -> list[str]:
    known = list(known)
    close = [name for name in known if len(word) > 3 and name.startswith(word)] or difflib.get_close_matches(word, known, n=1)
    return [f"did you mean {' or '.join(close[:3])}?"] if close else []


class ShowVersion(argparse.Action):
    """`--version`, looked up only when asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        emit(f"naa-fast {version('naa-fast')}")
        parser.exit()


class ShowCompletion(argparse.Action):
    """`--completion SHELL`: the script that completes the command line, by shtab."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, shell: Any, option: str | None = None) -> None:
        try:
            import shtab
        except ImportError:
            raise UsageError("--completion needs shtab", "install it: pip install 'naa-fast[completion]'") from None
        emit(shtab.complete(parser, shell=shell))
        parser.exit()


def build_parser() -> Parser:
    """The whole command line. Each verb adds itself and the function that runs it."""
    common = argparse.ArgumentParser(add_help=False)
    # SUPPRESS: the verb's parser would otherwise reset what was given before the verb.
    common.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
    parser = Parser(
        prog=PROGRAM,
        description="Does a neural network that somebody else trained carry a backdoor, and in which neurons?",
        epilog=EPILOG,
        parents=[common],
    )
    parser.add_argument("-V", "--version", action=ShowVersion, nargs=0, help="show the version and exit")
    parser.add_argument(
        "--completion",
        action=ShowCompletion,
        choices=("bash", "zsh", "tcsh"),
        help="print the shell's completion script and exit",
    )
    verbs = parser.add_subparsers(metavar="VERB", dest="verb", required=True)
    for verb in VERBS:
        verb.add(verbs, [common])
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Errors are printed on stderr and never raised.

    With `--log json` the last line on stderr is an object with `exit_code` and `outcome`: of a scan whose report is written the
    verdict's, with the gate's `decision`; "done" for what gives none, "stopped" (and can be resumed), "interrupted" or "error".
    """
    words = list(sys.argv[1:] if argv is None else argv)
    Log.as_json = False
    arguments = argparse.Namespace(outcome="", decision="", command=(PROGRAM, *words))
    code = run(words, arguments)
    if Log.as_json and os.environ.get("RANK", "0") == "0":
        outcomes = {0: "done", EXIT_STOPPED: "stopped", EXIT_INTERRUPTED: "interrupted"}
        decision = {"decision": arguments.decision} if arguments.decision else {}
        outcome = arguments.outcome or outcomes.get(code, "error")
        tell(json.dumps({"event": "end", "exit_code": code, "outcome": outcome, **decision}))
    return code


def run(words: list[str], arguments: argparse.Namespace) -> int:
    """Run one command, leaving its `outcome` in `arguments`; says where an older report is that it moved and did not replace."""
    code = attempt(words, arguments)
    if hasattr(arguments, "fail_on") and (arguments.out / PREVIOUS / REPORT).is_file():
        note(f"no new report was written; the older one is in {arguments.out / PREVIOUS}")
    return code


def attempt(words: list[str], arguments: argparse.Namespace) -> int:
    debug = "--debug" in words
    show_failed_steps(debug)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a report must not fail on a name the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    parsing = True
    try:
        parser = build_parser()
        path = config.given(words) if verb_of(words) == "scan" else None
        scans = [("", words)] if path is None else config.expanded(words, path, parser.verbs["scan"])
        if len(scans) > 1:
            return several(scans, arguments)
        parser.parse_args(scans[0][1], arguments)
        parsing = False
        Log.as_json = getattr(arguments, "log", "text") == "json"
        code = int(arguments.run(arguments))
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # --help and --version, or what the audited model runs: its exit code is not ours
        if not parsing:
            from naa_fast.scan.progress import ended_by

            ended = ended_by(stop)
            note(f"error: {ended.headline}", *(f"  {line}" for line in ended.details))
            return EXIT_ERROR
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
            return stop.code if isinstance(stop.code, int) else EXIT_ERROR
        quiet_stdout()
        return 0
    except NaaError as error:
        show_trace(debug)
        note(f"error: {error.headline}", *(f"  {line}" for line in error.details))
        return error.exit_code or EXIT_ERROR
    except KeyboardInterrupt:
        show_trace(debug)
        note("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # whoever read the results has gone; there is nobody to tell
        quiet_stdout()
        return EXIT_ERROR
    except Exception as error:
        show_trace(debug)
        first = (str(error).strip().splitlines() or ["no message"])[0]
        hint = [] if debug else ["  this was not foreseen; --debug shows where it happened"]
        note(f"error: {type(error).__name__}: {first}", *hint)
        return EXIT_ERROR


def several(scans: Sequence[tuple[str, list[str]]], arguments: argparse.Namespace) -> int:
    """Run the scans of a config one after the other, and print a table of them. What ends one by an error ends no other."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("several scans under torchrun", "each of them would share the processes", "start one torchrun a scan")
    rows, parser = [], build_parser()
    for _, words in scans:  # of all, before the first runs: what it does may end the others
        with contextlib.suppress(NaaError):  # which that scan says itself
            scan.claim(parser.parse_args(words))
    for name, words in scans:
        asked = argparse.Namespace(outcome="", decision="", command=arguments.command)
        emit(f"== {clean(name)}")
        code = run(words, asked)
        report = config.report_at(asked) if asked.outcome else None
        rows.append((name, code, report, getattr(asked, "out", Path())))
        if code in (EXIT_STOPPED, EXIT_INTERRUPTED):
            break
    emit("\n".join(["", *config.table_of(rows)]))
    return config.worst([code for _, code, _, _ in rows])


def verb_of(words: Sequence[str]) -> str:
    return next((word for word in words if not word.startswith("-")), "")


def show_failed_steps(debug: bool) -> None:
    """From here on the traceback of a step that fails while the scan goes on is shown, or not: the report has its last line."""
    import logging
    import traceback

    class Shown(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info[1] if record.exc_info else None
            trace = "" if error is None else "".join(traceback.format_exception(error))
            note(record.getMessage(), *trace.splitlines())

    logger = logging.getLogger("naa_fast")
    logger.handlers = [Shown()] if debug else []
    logger.setLevel(logging.DEBUG if debug else logging.NOTSET)


def show_trace(debug: bool) -> None:
    if debug:
        import traceback

        note(*traceback.format_exc().splitlines())
