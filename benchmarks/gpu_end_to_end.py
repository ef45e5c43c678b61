"""The GPU's half of end_to_end: large models, and the proof that hooks neither wait for the device nor copy from it.

`end_to_end_rows` times, `sync_and_copy_proof` counts. Both run on the CPU too, with small models, so that their plumbing can
be tested without a GPU; what they say there proves nothing, and `measured` is then False.
"""

from __future__ import annotations

import gc
import importlib
import json
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.overhead import Decoder, Ours, conv_names, decoder_names, overhead_rows, resnet, shared_copy

LLAMA = {"hidden": 4096, "intermediate": 11008, "heads": 32, "vocabulary": 32000}
SMALL_LLAMA = {"hidden": 64, "intermediate": 172, "heads": 4, "vocabulary": 512}
LLAMA_LAYERS = 32
WAITS = ("cudaDeviceSynchronize", "cudaStreamSynchronize", "cudaEventSynchronize", "cudaMemcpy", "cuStreamSynchronize")


def resnet_50(small: bool) -> tuple[nn.Module, str]:
    """timm's ResNet-50 if it is installed, else one of the same shape; and which of them it is."""
    if small:
        return resnet((1, 1), True, 8, 10), "own, small"
    try:
        timm = importlib.import_module("timm")
    except Exception:  # timm reaches for torchvision, which may be there and broken
        return resnet((3, 4, 6, 3), True), "own definition"
    return timm.create_model("resnet50", pretrained=False), f"timm {timm.__version__}"


def layers_that_fit(device: torch.device, shape: dict[str, int], positions: int) -> int:
    """As many layers of Llama-7B as leave room for activations; all 32 need 13 GB and about as much again is kept free."""
    if device.type != "cuda":
        return 2
    hidden, intermediate = shape["hidden"], shape["intermediate"]
    layer = 2 * (4 * hidden * hidden + 3 * hidden * intermediate)
    working = 2 * positions * (8 * hidden + 6 * intermediate) + 4 * shape["vocabulary"] * hidden
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, min(LLAMA_LAYERS, int((0.85 * free - working) / layer)))


def llama(device: torch.device, dtype: torch.dtype, shape: dict[str, int], layers: int) -> tuple[nn.Module, str]:
    """A Llama-like decoder with random weights, made straight on the device; and where its definition comes from."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            try:
                transformers = importlib.import_module("transformers")
                config_class, model_class = transformers.LlamaConfig, transformers.LlamaModel  # loaded only when named
            except Exception:
                return Decoder(layers, **shape, gated=True), "own definition"
            config = config_class(
                hidden_size=shape["hidden"],
                intermediate_size=shape["intermediate"],
                num_attention_heads=shape["heads"],
                num_key_value_heads=shape["heads"],
                num_hidden_layers=layers,
                vocab_size=shape["vocabulary"],
                use_cache=False,
                attn_implementation="sdpa",
            )
            return model_class(config), f"transformers {transformers.__version__}"
    finally:
        torch.set_default_dtype(before)


class Plain(nn.Module):
    """A transformers model called with ids alone, giving the hidden states alone."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, ids: Tensor) -> Tensor:
        output = self.inner(ids)
        return output if isinstance(output, Tensor) else output[0]


def end_to_end_rows(device: str | torch.device, size: str = "full", rounds: int = 20) -> list[dict[str, Any]]:
    """Rows of `overhead_rows`: ResNet-50 bf16 channels_last with all convolutions, a Llama-like decoder with the residual stream,
    and with the residual stream and the neurons of every MLP. Float32 on the CPU, where bf16 convolutions take minutes.
    """
    device = torch.device(device)
    small = size != "full" or device.type != "cuda"
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(0)
    model, source = resnet_50(small)
    model = model.to(device, dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's types
    images = torch.randn((4, 3, 32, 32) if small else (256, 3, 224, 224), device=device, dtype=dtype)
    images = images.contiguous(memory_format=torch.channels_last)
    rows = overhead_rows("ResNet-50 channels_last, convolutions", model, images, conv_names(model), rounds, warmup=3)
    for entry in rows:
        entry["model"] = source
    del model, images
    release(device)
    shape = SMALL_LLAMA if small else LLAMA
    ids = torch.randint(0, shape["vocabulary"], (2, 32) if small else (8, 2048), device=device)
    layers = layers_that_fit(device, shape, ids.numel())
    inner, source = llama(device, dtype, shape, layers)
    decoder = Plain(inner)
    for case, neurons in (("Llama-like, residual", False), ("Llama-like, residual + MLP", True)):
        found = overhead_rows(case, decoder, ids, decoder_names(decoder, neurons), max(3, rounds // 2))
        rows += [{**entry, "model": source, "decoder_layers": layers} for entry in found]
        release(device)
    return rows


def release(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def traced(work: Callable[[], object], device: torch.device) -> dict[str, int]:
    """What the profiler saw of `work`: copies from device to host, their bytes, and calls that make the host wait."""
    cuda = device.type == "cuda"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as seen:
            work()
            if cuda:
                torch.cuda.synchronize(device)
        seen.export_chrome_trace(str(path))
        return counted(json.loads(path.read_text())["traceEvents"])


def counted(events: list[dict[str, Any]]) -> dict[str, int]:
    """Totals over the events of a Chrome trace."""
    copies = [event for event in events if "memcpy" in event.get("cat", "") and "DtoH" in event.get("name", "")]
    waits = [event for event in events if event.get("cat") in ("cuda_runtime", "cuda_driver") and event.get("name") in WAITS]
    return {
        "dtoh_copies": len(copies),
        "dtoh_bytes": sum(int(event.get("args", {}).get("bytes", 0)) for event in copies),
        "waits": len(waits),
    }


def forbid_waiting(device: torch.device, work: Callable[[], object]) -> str:
    """Run `work` while torch raises on every wait of its own; "" or what it said. CuPy's waits it does not see: `traced` does."""
    if device.type != "cuda":
        work()
        return ""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        work()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return ""


def sync_and_copy_proof(device: str | torch.device, batches: int = 5) -> dict[str, Any]:
    """Count what crosses the bus in scans of N and 10·N batches, the finished records included, and waits inside the batch loop.

    `copies_constant`: events and bytes are the same for both lengths. `waits_per_batch`: from the slope between them, ours and
    the bare model's. `proved` needs both, nothing raised under sync debug mode "error", and a CUDA device.
    """
    device = torch.device(device)
    torch.manual_seed(0)
    small = device.type != "cuda"
    model = resnet((1, 1), True, 8, 10) if small else resnet((3, 4, 6, 3), True)
    dtype = torch.float32 if small else torch.bfloat16
    model = model.to(device, dtype).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as above
    images = torch.randn((4, 3, 32, 32) if small else (32, 3, 224, 224), device=device, dtype=dtype)
    images = images.contiguous(memory_format=torch.channels_last)
    result: dict[str, Any] = {"measured": device.type == "cuda", "batches": [batches, 10 * batches]}
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        ours = Ours(shared_copy(model), conv_names(model), stack)

        def loop(count: int) -> None:
            for _ in range(count):
                ours(images)

        def scan(count: int) -> None:
            loop(count)
            ours.accumulator.records()
            ours.predictions.read()

        def bare(count: int) -> None:
            for _ in range(count):
                model(images)

        bare(2)
        scan(2)  # kernels are compiled and pools filled before anything is counted
        result["sync_debug_mode"] = forbid_waiting(device, lambda: loop(batches))
        for name, work in (("ours", scan), ("bare", bare)):
            result[name] = [traced(lambda n=count, run=work: run(n), device) for count in result["batches"]]  # type: ignore[misc]
    few, many = result["ours"]
    result["copies_constant"] = few["dtoh_copies"] == many["dtoh_copies"] and few["dtoh_bytes"] == many["dtoh_bytes"]
    result["waits_per_batch"] = {
        name: (result[name][1]["waits"] - result[name][0]["waits"]) / (9 * batches) for name in ("ours", "bare")
    }
    result["cupy_pool_bytes"] = cupy_pool_bytes(device)
    result["proved"] = bool(
        result["measured"]
        and result["copies_constant"]
        and few["dtoh_bytes"] > 0  # the records themselves: were they missing, the profiler saw nothing
        and not result["sync_debug_mode"]
        and result["waits_per_batch"]["ours"] <= result["waits_per_batch"]["bare"]
        and not result["cupy_pool_bytes"]
    )
    return result


def cupy_pool_bytes(device: torch.device) -> int | None:
    """Device memory CuPy allocated itself, which should be none; None without CuPy."""
    if device.type != "cuda":
        return None
    try:
        cupy = importlib.import_module("cupy")
    except ImportError:
        return None
    return int(cupy.get_default_memory_pool().total_bytes())
