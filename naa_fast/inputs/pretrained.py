"""`load_pretrained`: models and tokenizers of Hugging Face folders, without running code from them."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from naa_fast.capture.loaded import add_told
from naa_fast.errors import ModelError, UnsafeInput, UsageError
from naa_fast.inputs.adapters import CONFIG, FILES, MERGE, Adapter, adapter_in, merge
from naa_fast.inputs.folders import compare_weights, remarks, without_adapter
from naa_fast.inputs.weights import first_line, some

PREFIX = "hf:"
FIRST_SAFE = (5, 5)
TASKS = {
    "causal-lm": ("AutoModelForCausalLM", "ForCausalLM", "LMHeadModel"),
    "masked-lm": ("AutoModelForMaskedLM", "ForMaskedLM"),
    "sequence-classification": ("AutoModelForSequenceClassification", "ForSequenceClassification"),
    "image-classification": ("AutoModelForImageClassification", "ForImageClassification"),
    "encoder": ("AutoModel", "Model"),
}
DTYPES = ("float32", "bfloat16", "float16")
CHECKED = (
    *("config.json", "tokenizer_config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json"),
    CONFIG,
)
DOWNLOADED = ("*.json", "*.safetensors", "*.txt", "*.model")
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".h5", ".msgpack", ".ckpt")


def load_pretrained(
    name: str, task: str = "auto", dtype: str | None = None, revision: str | None = None, device_map: str | None = None
) -> nn.Module:
    """The model in a folder, or of a Hub id (the one case that uses the network); only `.safetensors` weights are read.

    `task` "auto" takes the architecture config.json names. `dtype` None keeps the precision of the weights. `device_map` "auto"
    spreads the layers over the devices there are, through accelerate; each layer's statistics stay on its device.

    A plain LoRA in the folder is merged into the weights, by naa-fast's own code; other weights there must hold the same values.
    The report tells of both, and of what lies there and is not audited (`naa_fast.inputs.folders`).

    Raises:
        UnsafeInput: a folder that brings code (`auto_map`, kernels by name) or only pickled weights.
        ModelError: an adapter of another kind, a second set of weights that differs, no such folder, damaged files, weights
            missing for a part of the model, or transformers is not installed.
        UsageError: an unknown task or dtype.
    """
    for what, value, known in (("--hf-task", task, ("auto", *TASKS)), ("--dtype", dtype or DTYPES[0], DTYPES)):
        if value not in known:
            raise UsageError(f"{what} is '{value}'", f"expected one of {', '.join(known)}")
    transformers = library()
    folder = checked_folder(name, revision)
    adapter = adapter_in(folder)
    folder = base_of(folder, adapter)
    config = json_of(folder / "config.json")
    if config is None:
        raise ModelError(f"no config.json in {folder}", "expected a folder written by save_pretrained()")
    require_safetensors(folder)
    chosen = task if task != "auto" else (adapter and adapter.task) or task_of(config)
    spread: dict[str, Any] = {}
    if adapter is not None and adapter.classes is not None:
        spread["num_labels"] = adapter.classes
    if device_map is not None:
        if importlib.util.find_spec("accelerate") is None:
            raise ModelError("--device-map needs accelerate, which is not installed", "pip install 'naa-fast[hf]'")
        spread["device_map"] = device_map
    try:
        with without_adapter(folder) as place:
            model, loading = getattr(transformers, TASKS[chosen][0]).from_pretrained(
                str(place),
                trust_remote_code=False,
                use_safetensors=True,
                local_files_only=True,
                dtype=dtype or "auto",
                output_loading_info=True,
                **spread,
            )
    except Exception as error:  # a damaged or hostile folder reaches many parsers
        raise ModelError(
            f"cannot load {folder} as {chosen}", first_line(error), "check the files, or choose --hf-task"
        ) from error
    model.config._name_or_path = str(folder)
    brought = set() if adapter is None else set(adapter.whole)
    unfilled = sorted({*loading["missing_keys"], *(str(key) for key in loading["mismatched_keys"])} - brought)
    if unfilled:
        raise ModelError(
            f"{folder} has no weights for a part of the model",
            f"missing or of another shape ({len(unfilled)}): {some(unfilled)}",
            f"it was loaded as {chosen}, and the part would be random: choose the task it was trained for with --hf-task",
        )
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = False  # a scan reads every token once; the cache would only take memory
    same, unread = compare_weights(folder, model)
    applies, beside = remarks(folder)
    merged = [] if adapter is None else [merge(model, adapter)]
    add_told(model, reading=(*merged, *same, *applies), left_out=(*unread, *beside))
    return model


def base_of(folder: Path, adapter: Adapter | None) -> Path:
    """The folder of the model itself: the adapter's own, or else the one its configuration names.

    Raises ModelError where that is no folder here: nothing is fetched that nobody named. Others as `checked_folder`.
    """
    if adapter is None or (folder / "config.json").is_file():
        return folder
    if not adapter.base or not Path(adapter.base).is_dir() or Path(adapter.base).resolve() == folder.resolve():
        raise ModelError(
            f"{folder} holds an adapter alone",
            f"its base is {adapter.base!r}, which is no folder of a model here",
            f"copy the base's files into the adapter's folder, or name their folder as base_model_name_or_path in {CONFIG}",
            MERGE,
        )
    base = checked_folder(adapter.base, None)
    if adapter_in(base) is not None:
        raise ModelError(f"{folder} holds an adapter of an adapter", f"its base {base} has one as well", MERGE)
    return base


def load_tokenizer(name: str, revision: str | None = None) -> Any:
    """The tokenizer of a folder or Hub id. Raises as `load_pretrained`."""
    transformers = library()
    folder = checked_folder(name, revision)
    try:
        return transformers.AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise ModelError(
            f"no usable tokenizer in {folder}", first_line(error), "name a folder that has one with --tokenizer"
        ) from error


def library() -> Any:
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise ModelError(
            "Hugging Face models need transformers, which cannot be imported", str(error), "pip install 'naa-fast[hf]'"
        ) from None
    version = tuple(int(part) for part in re.findall(r"\d+", transformers.__version__)[:2])
    if version < FIRST_SAFE:
        raise UnsafeInput(
            f"transformers {transformers.__version__} has known holes through which a model folder can run code",
            f"expected {FIRST_SAFE[0]}.{FIRST_SAFE[1]} or newer",
            "pip install -U 'naa-fast[hf]'",
        )
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def checked_folder(name: str, revision: str | None) -> Path:
    """The folder itself, or a downloaded one, after its configuration files were searched for code."""
    folder = Path(name)
    if not folder.is_dir():
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", name) or folder.exists():
            raise ModelError(
                f"no such model folder: {name}", f"searched from {Path.cwd()}", "expected hf:FOLDER or hf:OWNER/NAME"
            )
        try:
            hub = importlib.import_module("huggingface_hub")
            folder = Path(hub.snapshot_download(name, revision=revision, allow_patterns=list(DOWNLOADED)))
        except Exception as error:
            raise ModelError(
                f"no folder {name}, and no such model could be fetched", first_line(error), "expected hf:FOLDER or hf:OWNER/NAME"
            ) from error
    for file in CHECKED:
        for key, value in entries(json_of(folder / file)):
            if key == "auto_map" and value:
                raise UnsafeInput(
                    f"refused to load {folder}",
                    f"{file} has an auto_map: it asks to run Python code that comes with the model",
                    "where you trust that code, build the model in a file of your own: --model FILE.py:FUNCTION",
                )
            if key.endswith("_implementation") and isinstance(value, str) and "/" in value:
                raise UnsafeInput(
                    f"refused to load {folder}",
                    f"{file} sets {key} to {value!r}: compiled code would be fetched from there and run",
                    f"remove {key} from the file",
                )
    return folder


def json_of(path: Path) -> Any:
    """The content of a JSON file, None if there is none."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise ModelError(f"{path} is damaged, or not JSON", first_line(error), "copy it again") from error


def entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key, item
            yield from entries(item)
    elif isinstance(value, list):
        for item in value:
            yield from entries(item)


def require_safetensors(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir() if path.name not in FILES)
    if any(name.endswith(".safetensors") for name in names):
        return
    pickled = [name for name in names if name.endswith(PICKLES)]
    if pickled:
        raise UnsafeInput(
            f"refused to load {folder}",
            f"its weights are pickles or unknown formats: {some(pickled)}; unpickling runs whatever code the file names",
            "in an environment you trust: model.save_pretrained(folder), which writes .safetensors",
        )
    raise ModelError(f"no weights in {folder}", f"files found: {some(names) or 'none'}", "expected model.safetensors")


def task_of(config: Any) -> str:
    """The task of the architecture a config names."""
    named = config.get("architectures") if isinstance(config, dict) else None
    for architecture in named if isinstance(named, list) else []:
        for task, (_, *endings) in TASKS.items():
            if isinstance(architecture, str) and architecture.endswith(tuple(endings)):
                return task
    raise ModelError("config.json does not tell the task", f"architectures: {named!r}", f"name it: --hf-task {'|'.join(TASKS)}")
