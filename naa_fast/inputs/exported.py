"""`load_exported`: programs saved with `torch.export.save` (`.pt2`), after what they ask for was read and found harmless.

Such a file is a graph of calls by name, expressions in words, and tensors. Torch's loader resolves any name under `torch`,
evaluates the expressions as Python and unpickles whatever is marked as a pickle. So every word is checked first, and what is
loaded is a new archive with nothing in it but what was checked.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from naa_fast.errors import ModelError, UnsafeInput
from naa_fast.files import nearest_files
from naa_fast.inputs.weights import FIRST_SAFE_TORCH, first_line, some, torch_version

KNOWN = re.compile(
    r"[^/]+/(archive_format|archive_version|byteorder|\.data/(version|serialization_id)|models/model\.json|data/"
    r"(weights/(weight_\d+|model_weights_config\.json)|constants/(tensor_\d+|model_constants_config\.json)|sample_inputs/model\.pt))"
)
SAMPLES = "data/sample_inputs/model.pt"
OPERATORS = re.compile(r"torch\.ops\.aten\.(?!from_file\b|save\b|load\b)\w+(\.\w+)?")
SMALL = re.compile(
    r"_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pos|pow|eq|ne|lt|le|gt|ge|getitem|and_|or_)"
    r"|math\.(ceil|floor|trunc)|torch\.sym_(int|float|max|min|not|sum)"
)
PLAIN = re.compile(r"[\w.@+-]*")
CONTEXT = re.compile(r'null|\[("\w*"(, "\w*")*)?\]')
WORD = re.compile(r"[a-z_]{0,16}")  # an option such as 'tanh'; no path
TREES = (None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")
FUNCTIONS = (
    *("Symbol", "Integer", "Add", "Mul", "Mod", "PythonMod", "FloorDiv", "CeilDiv", "CleanDiv", "Max", "Min", "Eq", "Ne"),
    *("Identity", "ToFloat", "TruncToInt"),
)
SUMS = (
    ast.Expression,
    ast.keyword,
    ast.BinOp,
    ast.UnaryOp,
    ast.Compare,
    ast.operator,
    ast.unaryop,
    ast.cmpop,
    ast.Name,
    ast.Load,
)
MAX_JSON = 1 << 28
WAY_FORWARD = "where you trust it, load it in a function of your own: --model FILE.py:FUNCTION"


def load_exported(path: Path) -> nn.Module:
    """The program in `path` as modules with the names of the model it was exported from. No code is run from it.

    Shapes that were not exported as dynamic are fixed: a batch of another size than the sample's is an error of its forward.

    Raises:
        UnsafeInput: pickles, compiled libraries, custom objects, or a call, expression, name or file that is not known to be
            harmless; or a torch whose `weights_only` cannot be trusted.
        ModelError: no such file, or a damaged one.
    """
    if not path.is_file():
        raise ModelError(
            f"no such exported program: {path}", *nearest_files(path), "expected a .pt2 file as torch.export.save writes it"
        )
    if torch_version() < FIRST_SAFE_TORCH:
        raise UnsafeInput(f"refused to load {path}", f"torch {torch.__version__} has known holes", "install torch 2.10 or newer")
    members = read_members(path)
    program = json_of(path, members, "models/model.json")
    for name in ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json"):
        require_no_pickle(path, json_of(path, members, name))
    samples = plain_samples(path, members)
    types = types_of(program)
    check(path, program)
    try:
        loaded = torch.export.load(rebuilt({**members, **samples}, program))
        model: nn.Module = torch.export.unflatten(loaded)
    except Exception as error:  # a damaged program reaches many parsers
        raise ModelError(f"{path} cannot be loaded", first_line(error), "export it again with this version of torch") from error
    for name, module in model.named_modules():
        kind = types.get(name)
        children = [child for child, _ in module.named_children()]
        if kind is None and children and all(child.isdecimal() for child in children):
            kind = nn.ModuleList  # is never called, so the file does not name it
        module.exported_type = kind
    return model


def read_members(path: Path) -> dict[str, bytes]:
    """Every file of the archive, none of which is unknown, twice there, or packed (torch stores them as they are)."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            unknown = [name for name in names if not KNOWN.fullmatch(name)]
            compiled = [name for name in names if "aotinductor" in name or name.endswith((".so", ".dll", ".dylib", ".cubin"))]
            if compiled or unknown or len(set(names)) < len(names):
                what = (
                    f"it holds compiled libraries: {some(compiled)}"
                    if compiled
                    else f"it holds files of unknown purpose: {some(unknown)}"
                    if unknown
                    else "it holds several files of one name"
                )
                raise refused(path, what)
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise refused(path, "its files are packed, which torch.export.save never does")
            return {entry.filename: archive.read(entry) for entry in entries}
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise ModelError(f"{path} is damaged, or not a .pt2 file", first_line(error), "copy it again") from error


def json_of(path: Path, members: dict[str, bytes], ending: str) -> Any:
    name = next((name for name in members if name.endswith(f"/{ending}")), None)
    if name is None or len(members[name]) > MAX_JSON:
        raise ModelError(
            f"{path} is not a program of one model", f"{ending} is missing, or over {MAX_JSON} bytes", "export it again"
        )
    try:
        return json.loads(members[name])
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is damaged", f"{ending}: {first_line(error)}", "copy it again") from error


def require_no_pickle(path: Path, config: Any) -> None:
    entries = config.get("config") if isinstance(config, dict) else None
    if not isinstance(entries, dict):
        raise ModelError(f"{path} is damaged", "its list of tensors is none", "copy it again")
    for name, entry in entries.items():
        place = entry.get("path_name") if isinstance(entry, dict) else None
        plain = isinstance(place, str) and re.fullmatch(r"(weight|tensor)_\d+", place) is not None
        if not (plain and entry.get("use_pickle") is False):
            raise refused(path, f"its tensor {name!r} is stored as a pickle, and unpickling runs whatever code the file names")


def plain_samples(path: Path, members: dict[str, bytes]) -> dict[str, bytes]:
    """The sample inputs as this process writes them, under their name in the archive."""
    plain = {}
    for name in (name for name in members if name.endswith(SAMPLES)):
        try:
            samples = torch.load(io.BytesIO(members[name]), map_location="cpu", weights_only=True)
        except Exception as error:
            raise refused(
                path, "its sample inputs are a full pickle, which torch would unpickle: it runs whatever code the file names"
            ) from error
        buffer = io.BytesIO()
        torch.save(samples, buffer)
        plain[name] = buffer.getvalue()
    return plain


def check(path: Path, program: Any) -> None:
    """Hold every word of the program to what is known to be harmless; drops what loading does not need. Changes `program`."""
    if isinstance(program, dict):
        program["guards_code"] = []  # Python source, to be compiled
        if isinstance(program.get("graph_module"), dict):
            program["graph_module"]["treespec_namedtuple_fields"] = {}
    for key, value in words(program):
        allowed: bool
        if key in ("as_operator", "as_custom_obj", "custom_obj_values"):
            raise refused(path, f"it brings objects of its own ({key})")
        if key == "target":
            allowed = bool(OPERATORS.fullmatch(value) or SMALL.fullmatch(value))
            if not allowed:
                raise refused(path, f"it calls {value!r}, which is not known to be harmless")
        elif key == "expr_str":
            allowed = is_sum(value)
        elif key in ("in_spec", "out_spec"):
            allowed = is_plain_tree(value)
        elif key == "as_string" or key == "as_strings":
            allowed = bool(WORD.fullmatch(value))
        elif key == "nn_module_stack":
            allowed = True  # split at commas for names of modules
        else:
            allowed = bool(PLAIN.fullmatch(value))
        if not allowed:
            raise refused(path, f"its {key} reads {value[:80]!r}, which could run as code")


def words(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string at any depth with the key it stands under; keys as strings too. Metadata shrinks to the module names."""
    if isinstance(value, dict):
        if "metadata" in value and isinstance(value["metadata"], dict):
            kept = value["metadata"].get("nn_module_stack")
            value["metadata"] = {"nn_module_stack": kept} if isinstance(kept, str) else {}
        if value.get("custom_obj_values"):
            yield "custom_obj_values", ""
        for name, item in value.items():
            yield "name of a field", name
            if name in ("as_operator", "as_custom_obj"):
                yield name, ""
            yield from words(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from words(item, key)
    elif isinstance(value, str):
        yield key, value


def is_sum(text: str) -> bool:
    """Whether an expression is arithmetic on names and whole numbers, with functions of a short list.

    A name in quotes, as in `Symbol('s0', positive=True)`, is one word: sympy would evaluate it once more.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if not (isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS):
                return False
        elif isinstance(node, ast.Constant):
            if type(node.value) not in (int, float, bool) and not (isinstance(node.value, str) and node.value.isidentifier()):
                return False
        elif isinstance(node, ast.Pow) or not isinstance(node, SUMS):  # a tower of powers would never end
            return False
    return True


def is_plain_tree(text: str) -> bool:
    """Whether a description of nested arguments names tuples, lists and dicts alone, with plain keys."""
    if not text:
        return True
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        return False

    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            context = value.get("context")
            known = context is None or (isinstance(context, str) and CONTEXT.fullmatch(context) is not None)
            return value.get("type") in TREES and known and all(plain(child) for child in value.get("children_spec", []))
        return False

    return isinstance(tree, list) and len(tree) == 2 and type(tree[0]) is int and plain(tree[1])


def types_of(program: Any) -> dict[str, type[nn.Module]]:
    """Which class each module was exported from, as far as its name tells: torch's own class, or an empty one of that name."""
    types: dict[str, type[nn.Module]] = {}

    def walk(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            stack = value.get("nn_module_stack")
            if isinstance(stack, str):
                yield stack
            for item in value.values():
                yield from walk(item)
        elif isinstance(value, list):
            for item in value:
                yield from walk(item)

    for stack in set(walk(program)):
        for entry in stack.split(";"):
            _, _, rest = entry.partition(",")
            name, _, kind = rest.rpartition(",")
            last = kind.rpartition(".")[2]
            torch_class = getattr(nn, last, None) if kind.startswith("torch.nn.modules.") and last.isidentifier() else None
            if isinstance(torch_class, type) and issubclass(torch_class, nn.Module):
                types[name] = torch_class
            elif last.isidentifier():
                types[name] = type(last, (nn.Module,), {})
    return types


def rebuilt(members: dict[str, bytes], program: Any) -> io.BytesIO:
    """A new archive of the checked parts."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            if name.endswith("/models/model.json"):
                archive.writestr(name, json.dumps(program))
            else:
                archive.writestr(name, content)
    buffer.seek(0)
    return buffer


def refused(path: Path, why: str) -> UnsafeInput:
    return UnsafeInput(f"refused to load {path}", why, WAY_FORWARD)
