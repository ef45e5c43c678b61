"""`main`: words in, an exit code out. Every failure ends here, as lines."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from naa_fast.cli import bench, compare, demo, doctor, measure, merge, rank, repair, report, scan
from naa_fast.cli.shared import Log, emit, note, quiet_stdout, tell
from naa_fast.errors import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_STOPPED, NaaError, UsageError

PROGRAM = "naa-fast"
VERBS = (scan, rank, measure, merge, compare, report, repair, demo, doctor, bench)

EPILOG = """exit codes: 0 pass, 1 fail (a finding of --fail-on), 2 error, 3 inconclusive (also a warn with a gap), 4 usage,
5 refused unsafe input, 6 warn, 75 stopped and can be resumed; 130 interrupted"""


class Parser(argparse.ArgumentParser):
    """argparse, with its complaints in this project's form and exit code, and `examples` at the end of its help."""

    examples: Sequence[str] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def format_help(self) -> str:
        shown = "".join(f"  {line}\n" for line in self.examples)  # as they are: a wrapped command cannot be copied
        return super().format_help() + (f"\nexamples:\n{shown}" if shown else "")

    def error(self, message: str) -> NoReturn:
        if message.endswith("required: VERB"):
            verbs = ", ".join(verb.__name__.rpartition(".")[2] for verb in VERBS)
            raise UsageError("no verb given", f"verbs: {verbs}", f"for more: {self.prog} --help")
        raise UsageError(message, f"for more: {self.prog} --help")


class ShowVersion(argparse.Action):
    """`--version`, looked up only when asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        emit(f"naa-fast {version('naa-fast')}")
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
    parser.add_argument("--version", action=ShowVersion, nargs=0, help="show the version and exit")
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
    """Run one command, leaving its `outcome` in `arguments`."""
    debug = "--debug" in words
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a report must not fail on a name the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    try:
        build_parser().parse_args(words, arguments)
        Log.as_json = getattr(arguments, "log", "text") == "json"
        code = int(arguments.run(arguments))
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # --help and --version
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
            return stop.code if isinstance(stop.code, int) else EXIT_ERROR
        quiet_stdout()
        return 0
    except NaaError as error:
        show_trace(debug)
        note(f"error: {error.headline}", *(f"  {line}" for line in error.details))
        return error.exit_code
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


def show_trace(debug: bool) -> None:
    if debug:
        import traceback

        note(*traceback.format_exc().splitlines())
