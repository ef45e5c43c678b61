"""Five timm architectures with their default layers: `python -m benchmarks.timm_models [--json FILE]`.

ResNet-50, ConvNeXt, ViT, Swin and EfficientNet with random weights. Of each: whether every default layer fired under its module's
name, whether neurons were read from the right axis, whether statistics are those of stored activations in float64, what memory
the hooks add to one forward, and what time. Ends with exit code 1 if something of that is broken.

timm imports torchvision, of which its models run nothing. Where torchvision is missing, empty stand-ins take its place while timm
is imported; each raises when it is used, and the file says so (`torchvision`).
"""

from __future__ import annotations

import argparse
import enum
import importlib
import importlib.util
import json
import multiprocessing
import os
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import naa_fast
from benchmarks.common import interleaved, load, paired, row, table, write
from benchmarks.overhead import Ours, shared_copy
from naa_fast.capture.defaults import default_places
from naa_fast.inputs.models import load_model
from naa_fast.measurement import Measurement
from naa_fast.records import Array, LayerRecord, Moments

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from tolerances import assert_moments, observation_error

THRESHOLD = "MALLOC_MMAP_THRESHOLD_"
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
COPIED_LIMIT = 0.01
"""Share of the hooked outputs that a forward may allocate beyond the bare one: the scores' softmax, and nothing that grows."""
COLUMNS = (
    "case",
    "layers",
    "hooked_MB",
    "torch_peak_MB",
    "bare_peak_MB",
    "copied_MB",
    "partials_MB",
    "bare_resident_MB",
    "resident_MB",
    "overhead",
)


@dataclass(frozen=True)
class Architecture:
    """A timm name, and on which axis blocks and activations have their neurons: told by hand, so that it checks what we find."""

    name: str
    blocks: int
    activations: int
    size: int = 224

    def axis(self, kind: str) -> int:
        last = {"linear layers": -1, "attention": -1}
        return {**last, "convolutions": 1, "blocks": self.blocks, "activations": self.activations}[kind]


ARCHITECTURES = (
    Architecture("resnet50", blocks=1, activations=1),
    Architecture("convnext_tiny", blocks=1, activations=-1),
    Architecture("vit_small_patch16_224", blocks=-1, activations=-1),
    Architecture("swin_tiny_patch4_window7_224", blocks=-1, activations=-1),
    Architecture("efficientnet_b0", blocks=1, activations=1),
)


class InterpolationMode(enum.Enum):
    NEAREST, BILINEAR, BICUBIC, BOX, HAMMING, LANCZOS = "nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"


STAND_INS: dict[str, tuple[str, ...]] = {
    "torchvision": (),
    "torchvision.datasets": ("CIFAR100", "CIFAR10", "MNIST", "KMNIST", "FashionMNIST", "ImageFolder"),
    "torchvision.ops": (),
    "torchvision.ops.misc": ("FrozenBatchNorm2d",),
    "torchvision.transforms": ("ToTensor",),
    "torchvision.transforms.functional": (),
}
"""What timm names while it is imported: base classes, and types to compare with."""


def refused(self: object, *arguments: Any, **keywords: Any) -> None:
    raise RuntimeError(f"{type(self).__name__} is an empty stand-in: this needs the real torchvision")


@contextmanager
def torchvision_stand_in() -> Iterator[None]:
    """Empty modules under torchvision's names; gone afterwards, since other packages ask whether torchvision is there."""
    modules = {name: ModuleType(name) for name in STAND_INS}
    for name, module in modules.items():
        module.__path__ = []
        for known in STAND_INS[name]:
            setattr(module, known, type(known, (), {"__init__": refused}))
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(modules[parent], last, module)
    modules["torchvision.transforms.functional"].InterpolationMode = InterpolationMode  # type: ignore[attr-defined]
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            sys.modules.pop(name, None)


def import_timm() -> str:
    """Import timm, and say in words what it got for torchvision. Raises ImportError without timm."""
    if "timm" in sys.modules or importlib.util.find_spec("torchvision") is not None:
        importlib.import_module("timm")
        return "imported before, as it was" if importlib.util.find_spec("torchvision") is None else "installed"
    with torchvision_stand_in():
        importlib.import_module("timm")
    return "missing: empty stand-ins while timm was imported, which raise if they are used"


def built(architecture: Architecture, device: str) -> nn.Module:
    torch.manual_seed(0)
    return load_model(f"timm:{architecture.name}", {}).to(device).eval()


def images(architecture: Architecture, batch: int, device: str) -> Tensor:
    random = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, architecture.size, architecture.size, generator=random).to(device)


def layers_of(model: nn.Module) -> dict[str, str]:
    """The default layers whose output is read, and the kind of each."""
    places, _ = default_places(dict(model.named_modules()))
    return {name: kind for (name, item), kind in places.items() if item is None}


def probed(layers: dict[str, str]) -> list[str]:
    """First, middle and last layer of every kind: the few whose activations are stored."""
    chosen = []
    for kind in sorted(set(layers.values())):
        names = [name for name, found in layers.items() if found == kind]
        chosen += [names[0], names[len(names) // 2], names[-1]]
    return list(dict.fromkeys(chosen))


def stored(model: nn.Module, batches: list[Tensor], names: list[str]) -> tuple[dict[str, list[Array]], dict[str, list[int]]]:
    """Outputs of the named layers as float64, and bytes and axes of every named one in a single batch."""
    kept: dict[str, list[Array]] = {name: [] for name in names}

    def keep(name: str, module: nn.Module, arguments: Any, output: Tensor) -> None:
        kept[name].append(output.detach().double().cpu().numpy())  # a copy: the model may overwrite it

    return kept, with_hooks(model, names, keep, batches)


def with_hooks(model: nn.Module, names: list[str], hook: Callable[..., None], batches: list[Tensor]) -> dict[str, list[int]]:
    """Forwards with `hook(name, module, arguments, output)` on the named layers; the shapes of their last outputs."""
    shapes: dict[str, list[int]] = {}

    def look(name: str, module: nn.Module, arguments: Any, output: Tensor) -> None:
        shapes[name] = list(output.shape)
        hook(name, module, arguments, output)

    modules = dict(model.named_modules())
    handles = [modules[name].register_forward_hook(partial(look, name)) for name in names]
    try:
        with torch.no_grad():
            for batch in batches:
                model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def brute_force(outputs: list[Array], axis: int, samples: int) -> tuple[Moments, Moments, Moments]:
    """Moments over positions, samples' means and samples' maxima of stored outputs whose neurons are on `axis`."""
    whole = np.concatenate([np.moveaxis(x, axis, -1) for x in outputs])
    by_sample = whole.reshape(samples, -1, whole.shape[-1])  # windows of a sample follow one another
    return Moments.of(by_sample.reshape(-1, whole.shape[-1])), Moments.of(by_sample.mean(1)), Moments.of(by_sample.max(1))


def over_budget(record: LayerRecord, expected: tuple[Moments, Moments, Moments]) -> str:
    """Which field of a record is farther from brute force than rounding explains (tests/tolerances.py), or ""."""
    positions, mean, maximum = expected
    e = 0.0 if np.array_equal(positions.count, mean.count) else observation_error(positions, "float32")
    try:
        assert_moments(record.positions, positions, "float32", "positions")
        assert_moments(record.sample_mean, mean, "float32", "sample means", e)
        assert_moments(record.sample_max, maximum, "float32", "sample maxima")
    except AssertionError as error:
        return str(error)
    return ""


def mean_error(record: LayerRecord, expected: Moments) -> float:
    """How far means lie from brute force, in the layer's largest standard deviation."""
    return float(np.abs(record.positions.mean - expected.mean).max() / np.sqrt(expected.variance.max()))


def wrong(architecture: Architecture, model: nn.Module, x: Tensor, measured: Measurement) -> tuple[list[str], dict[str, Any]]:
    """What a scan's result does not keep of what was promised, and what was found."""
    layers = layers_of(model)
    inputs = [name for (name, item) in default_places(dict(model.named_modules()))[0] if item is not None]
    broken = [f"{name} never fired" for name in layers if name not in measured.layers]
    known = {*layers, *inputs}
    broken += [f"{name} is the name of no default layer" for name in measured.layers if name.partition(":")[0] not in known]
    batches = list(x.split(2))
    outputs, _ = stored(model, batches, probed(layers))
    shapes = with_hooks(model, list(layers), lambda *_: None, batches[:1])
    for name, record in measured.layers.items():
        axis = architecture.axis(layers[name]) % len(shapes[name]) if name in layers else 0
        if name in layers and not record.layout.startswith(f"axis {axis} of {len(shapes[name])}"):
            broken.append(f"{name} was read as {record.layout}, its neurons are on axis {axis} of {shapes[name]}")
        elif name in layers and record.channels != shapes[name][axis]:
            broken.append(f"{name} has {record.channels} neurons in the record and {shapes[name][axis]} in the model")
    errors = []
    for name, kept in outputs.items():
        if name in measured.layers:
            expected = brute_force(kept, architecture.axis(layers[name]), len(x))
            trouble = over_budget(measured.layers[name], expected)
            broken += [f"{name} {trouble}"] if trouble else []
            errors.append(mean_error(measured.layers[name], expected[0]) if not trouble else float("nan"))
    neurons = sum(record.channels for record in measured.layers.values())
    found = {"neurons": neurons, "compared": list(outputs), "mean_error": float(np.max(errors))}
    return broken, found


def allocated(call: Callable[[], object]) -> tuple[int, int]:
    """Peak and sum of the bytes torch allocates on the host in `call()`, from the profiler's record of every allocation."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    with tempfile.TemporaryDirectory() as folder:
        seen.export_chrome_trace(f"{folder}/trace.json")
        return peak_and_sum(json.loads(Path(folder, "trace.json").read_text())["traceEvents"])


def peak_and_sum(events: list[dict[str, Any]]) -> tuple[int, int]:
    """Of a trace's allocations in order of time: the most held at once, and all that was ever asked for."""
    held = peak = total = 0
    for event in sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"]):
        change = event["args"]["Bytes"]
        held, total = held + change, total + max(0, change)
        peak = max(peak, held)
    return peak, total


def allocated_on_gpu(call: Callable[[], object]) -> tuple[int, int]:
    """The same of a CUDA device, by the allocator's own counts."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, asked = torch.cuda.memory_allocated(), torch.cuda.memory_stats()["allocated_bytes.all.allocated"]
    call()
    torch.cuda.synchronize()
    return (
        torch.cuda.max_memory_allocated() - before,
        torch.cuda.memory_stats()["allocated_bytes.all.allocated"] - asked,
    )


def host_memory(ours: Ours, x: Tensor) -> tuple[int, float]:
    """Bytes of partials that a forward's layers leave in NumPy arrays until it is counted, and the most that reading one layer
    takes and gives back, over that layer's output: 1 would be a copy. Layers under 1 MB are not looked at for that.
    """
    observe, taken, shares = ours.accumulator.observe, [0], [0.0]

    def watched(layer: str, x: Tensor, layout: str) -> None:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        observe(layer, x, layout)
        after, peak = tracemalloc.get_traced_memory()
        taken[0] += after - before
        if x.nbytes >= 1e6:
            shares.append((peak - max(after, before)) / x.nbytes)

    tracemalloc.start()
    ours.accumulator.observe = watched  # type: ignore[method-assign]
    try:
        ours(x)
    finally:
        tracemalloc.stop()
        del ours.accumulator.observe
    return taken[0], max(shares)


def status_bytes(field: str) -> int:
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def resident_peak(name: str, batch: int, hooks: bool) -> int | None:
    """Bytes by which a forward raises resident memory at its highest, in a process that did one with two images before.

    Everything counts, whoever allocated it. None where the system does not tell (Linux with a resettable peak does).
    """
    import_timm()
    architecture = next(known for known in ARCHITECTURES if known.name == name)
    model = built(architecture, "cpu")
    with torch.no_grad(), ExitStack() as stack:
        call = Ours(model, list(layers_of(model)), stack) if hooks else model
        call(images(architecture, 2, "cpu"))
        x = images(architecture, batch, "cpu")
        try:
            CLEAR.write_text("5")  # sets the peak to what is resident now
            before = status_bytes("VmRSS")
        except (OSError, StopIteration):
            return None
        call(x)
        return status_bytes("VmHWM") - before


def resident_pair(name: str, batch: int) -> dict[str, float | None]:
    """`resident_peak` with and without hooks, each in a fresh process.

    glibc gives every block of 256 KiB or more back there. Left alone it keeps freed activations in its heap with the small
    partials between them, where the next do not fit: ViT-small, batch 8, grew by 212 MB instead of 65 MB, and nothing was copied.
    """
    peaks = []
    before = os.environ.get(THRESHOLD)
    os.environ[THRESHOLD] = str(1 << 18)
    try:
        for hooks in (False, True):
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
                peaks.append(fresh.submit(resident_peak, name, batch, hooks).result())
    finally:
        os.environ.pop(THRESHOLD)
        if before is not None:
            os.environ[THRESHOLD] = before
    bare, hooked = peaks
    if bare is None or hooked is None:
        return {"bare_resident_MB": None, "resident_MB": None}
    return {"bare_resident_MB": bare / 1e6, "resident_MB": hooked / 1e6}


def memory(model: nn.Module, ours: Ours, x: Tensor) -> tuple[list[str], dict[str, Any]]:
    """What the hooks allocate in a forward whose layers were all seen before, beside the bare one; and what of it is too much."""
    read = allocated_on_gpu if x.is_cuda else allocated
    sizes: dict[str, int] = {}
    with_hooks(model, list(layers_of(model)), lambda name, module, given, out: sizes.update({name: out.nbytes}), [x])
    hooked = sum(sizes.values())
    ours(x)
    bare_peak, bare_sum = read(partial(model, x))
    peak, total = read(partial(ours, x))
    partials, share = host_memory(ours, x)
    found = {
        "hooked_MB": hooked / 1e6,
        "largest_MB": max(sizes.values()) / 1e6,
        "torch_peak_MB": peak / 1e6,
        "bare_peak_MB": bare_peak / 1e6,
        "copied_MB": (total - bare_sum) / 1e6,
        "partials_MB": partials / 1e6,
        "scratch_share": share,
    }
    broken = []
    if not share < 1:
        broken.append(f"reading a layer took {share:.2f} times its output in NumPy arrays")
    if x.is_cuda and not peak - bare_peak < hooked / 2:  # partials are torch's there
        broken.append(f"the peak rose by {(peak - bare_peak) / 1e6:.1f} MB, to read {hooked / 1e6:.0f} MB")
    if not x.is_cuda and not abs(total - bare_sum) <= COPIED_LIMIT * hooked:
        broken.append(f"the hooks made torch allocate {(total - bare_sum) / 1e6:.1f} MB, to read {hooked / 1e6:.0f} MB")
    return broken, found


def rows_of(
    architecture: Architecture, batch: int, device: str, rounds: int, resident: bool
) -> tuple[list[str], list[dict[str, Any]]]:
    """What is broken, and a row for the bare forward and one for that with hooks."""
    model, x = built(architecture, device), images(architecture, batch, device)
    measured = naa_fast.measure(model, x, batch_size=2)
    broken, found = wrong(architecture, model, x, measured)
    with torch.no_grad(), ExitStack() as stack:
        ours = Ours(shared_copy(model), list(measured.layers), stack)
        more, used = memory(model, ours, x)
        wait = torch.cuda.synchronize if x.is_cuda else None
        calls: dict[str, Callable[[], object]] = {"alone": partial(model, x), "ours": partial(ours, x)}
        seconds = interleaved(calls, rounds, 1, wait)
    if resident and device == "cpu":
        used |= resident_pair(architecture.name, batch)
        if used["resident_MB"] is not None and not used["resident_MB"] - used["bare_resident_MB"] < used["hooked_MB"] / 2:
            more.append(
                f"resident memory grew by {used['resident_MB']:.0f} MB, without hooks by {used['bare_resident_MB']:.0f} MB"
            )
    names = list(measured.layers)
    said = f"{len(names)} layers: {', '.join(names[:4])} ... {', '.join(names[-3:])}"
    print(f"{architecture.name}: {said}", flush=True)
    shared = {"layers": len(names), "first": names[:4], "last": names[-3:], **found, **used}
    rows = []
    for variant, taken in seconds.items():
        overhead = paired(taken, seconds["alone"]) - 1
        told = shared if variant == "ours" else {}
        size = round(used["hooked_MB"] * 1e6)
        entry = row(architecture.name, "float32", tuple(x.shape), taken, size, GB_per_s=None, variant=variant, overhead=overhead)
        rows.append({**entry, **told})
    return [f"{architecture.name}: {what}" for what in broken + more], rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="write conditions and rows to this file")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=[a.name for a in ARCHITECTURES], help="some of the architectures")
    parser.add_argument("--no-resident", action="store_true", help="leave out the processes that measure resident memory")
    options = parser.parse_args(arguments)
    busy = load()
    try:
        torchvision = import_timm()
    except ImportError as error:
        print(f"timm cannot be imported: {error}\npip install --no-deps timm huggingface-hub pyyaml", file=sys.stderr)
        return 2
    print(f"torchvision: {torchvision}")
    broken, rows = list[str](), list[Any]()
    for architecture in ARCHITECTURES:
        if options.only is None or architecture.name in options.only:
            more, found = rows_of(architecture, options.batch, options.device, options.rounds, not options.no_resident)
            broken, rows = broken + more, rows + found
    print(table([entry for entry in rows if entry["variant"] == "ours"], COLUMNS))
    print(
        "\n".join(broken)
        if broken
        else "every default layer fired, was read from its axis, equals brute force, and was not copied"
    )
    if options.json:
        known = {"threads": torch.get_num_threads(), "load": busy, "torchvision": torchvision, "broken": broken}
        command = f"python -m benchmarks.timm_models --device {options.device} --batch {options.batch} --rounds {options.rounds}"
        write(options.json, rows, **known, command=command)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
