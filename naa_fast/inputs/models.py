"""`load_model`: a model from the user's own code, with weights that may come from anybody."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from naa_fast.capture.runnable import advice
from naa_fast.errors import ModelError, NaaError, UsageError
from naa_fast.files import nearest_files
from naa_fast.inputs.exported import load_exported
from naa_fast.inputs.timm_models import PREFIX as TIMM
from naa_fast.inputs.timm_models import load_timm
from naa_fast.inputs.weights import TORCH_SUFFIXES, first_line, load_weights, read_weights

FORM = "expected FILE.py:FUNCTION or package.module:FUNCTION"
FORMS = "or hf:FOLDER (Hugging Face), timm:NAME (an architecture of timm), or a FILE.pt2 of torch.export"
EXPORTED = ".pt2"
SHOWN = 12


def load_model(
    spec: str,
    arguments: Mapping[str, Any],
    weights: Path | None = None,
    trusted: str | None = None,
    weights_key: str | None = None,
) -> nn.Module:
    """The module `FUNCTION(**arguments)` returns, with `weights` loaded into it if given, those under `weights_key` if given.

    `spec` may also be `timm:NAME` (see `load_timm`) or a `.pt2` file (see `load_exported`), which are trusted with nothing.
    Else it names TRUSTED code: the file or module is imported and the function called, with all that Python code can do. The
    folder of FILE.py, or the current directory for the second form, is importable meanwhile, after everything installed, so that
    no file there takes the place of a library. `weights` need not be trusted, and are read first; `trusted`: see `read_weights`.

    Raises:
        UsageError: a spec of another form, no such file, module or function, or arguments the function does not take.
        ModelError: the code raised, or returned something else than a module; see also `read_weights` and `load_weights`.
        UnsafeInput: see `read_weights`.
    """
    if spec.endswith(EXPORTED):
        options = {"--weights": weights, "--model-arg": arguments, "--unsafe-load": trusted, "--weights-key": weights_key}
        for option, given in options.items():
            if given:
                raise UsageError(f"{option} with {spec}", "an exported program brings its own", f"leave {option} out")
        return load_exported(Path(spec))
    for option, given, why in (
        ("--unsafe-load", trusted, "it says which file of weights may be unpickled"),
        ("--weights-key", weights_key, "it says what to take from a file of weights"),
    ):
        if given is not None and weights is None:
            raise UsageError(f"{option} without --weights", why, "leave it out")
    if spec.startswith(TIMM):
        return load_timm(spec.removeprefix(TIMM), arguments, weights, trusted, weights_key)
    place, _, function = spec.rpartition(":")
    if not place or not function.isidentifier():
        if Path(spec).suffix.lower() in (*TORCH_SUFFIXES, ".safetensors"):
            raise UsageError(
                f"model '{spec}' is a file of weights, or of TorchScript",
                "weights need the code of their model, and TorchScript is a program that cannot be hooked",
                f"this file is --weights: --model FILE.py:FUNCTION --weights {spec}",
                "or with an architecture of timm: --model timm:NAME; of a Hugging Face folder the folder: --model hf:FOLDER; "
                "or a program saved by torch.export: --model FILE.pt2",
            )
        folder = [f"this is a folder: --model hf:{spec}, if it has a config.json"] if Path(spec).is_dir() else []
        raise UsageError(f"model '{spec}' is not of a form that can be loaded", *folder, FORM, FORMS)
    state = None if weights is None else read_weights(weights, trusted)
    is_file = place.endswith(".py")
    with importable(Path(place).parent if is_file else Path.cwd()):
        module = import_file(Path(place)) if is_file else import_named(place)
        model = call(find_function(module, place, function), function, place, arguments)
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{function} of {place} returned no model",
            f"it returned an object of type {type(model).__name__}",
            "expected a torch.nn.Module: return the model itself",
            advice(model),
        )
    if state is not None and weights is not None:
        load_weights(model, state, weights, weights_key)
    return model


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """`folder` at the end of the import path inside, as before afterwards."""
    entry = str(folder.resolve())
    sys.path.append(entry)
    try:
        yield
    finally:
        # The last occurrence is the one added here; the code may have put in another.
        position = len(sys.path) - 1 - sys.path[::-1].index(entry) if entry in sys.path else None
        if position is not None:
            del sys.path[position]


def import_file(path: Path) -> ModuleType:
    """A Python file as a module under a name of its own."""
    if not path.is_file():
        raise UsageError(f"no such model file: {path}", f"searched from {Path.cwd()}", *nearest_files(path), FORM)
    name = f"_naa_fast_model_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, "the name ends in .py"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and forward references look their module up here
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise code_raised(f"importing {path}", error) from error
    return module


def import_named(name: str) -> ModuleType:
    """An installed module, or one in the current directory."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise code_raised(f"importing {name}", error) from error
        hint = f"for a file write {name}.py:FUNCTION" if Path(f"{name}.py").is_file() else FORM
        raise UsageError(f"no module named {error.name}", f"neither installed nor in {Path.cwd()}", hint) from None
    except (Exception, SystemExit) as error:
        raise code_raised(f"importing {name}", error) from error


def find_function(module: ModuleType, place: str, function: str) -> Callable[..., Any]:
    named = getattr(module, function, None)
    if isinstance(named, nn.Module):
        raise UsageError(
            f"{function} of {place} is a model, not a function",
            f"write a function that returns it: def build(): return {function}",
        )
    if callable(named):
        return named
    offered = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", None) == module.__name__
    ]
    what = f"{place} has no function {function}" if named is None else f"{function} of {place} is a {type(named).__name__}"
    offers = (
        ", ".join(offered[:SHOWN]) + (", ..." if len(offered) > SHOWN else "") if offered else "no function or class of its own"
    )
    raise UsageError(what, f"it offers: {offers}", FORM)


def call(build: Callable[..., Any], function: str, place: str, arguments: Mapping[str, Any]) -> Any:
    try:
        signature = inspect.signature(build)
    except (ValueError, TypeError):  # some callables written in C have none
        signature = None
    if signature is not None:
        try:
            signature.bind(**arguments)
        except TypeError as error:
            raise UsageError(
                f"{function} of {place} does not take these arguments",
                first_line(error),
                f"it is {function}{signature}",
                "give them as --model-arg KEY=JSON",
            ) from None
    try:
        return build(**arguments)
    except NaaError:
        raise
    except (Exception, SystemExit) as error:
        raise code_raised(f"{function} of {place}", error) from error


def code_raised(what: str, error: BaseException) -> ModelError:
    """The user's code failed: its own last words, and where it was."""
    lines = str(error).strip().splitlines()
    message = f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else f"raised at {trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno}"
    if isinstance(error, SyntaxError) and error.filename:
        where = f"at {error.filename}, line {error.lineno}"
    return ModelError(f"{what} raised an error", message, *([where] if where else []))
