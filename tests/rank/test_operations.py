"""Ranking costs the same number of torch operations a batch however many layers there are, and never waits for the device."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from cuda_on_host import host
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from naa_fast.accumulate import Accumulator, Samples, Views
from naa_fast.inputs.batches import Batch
from naa_fast.inputs.opening import open_source
from naa_fast.kernels.cuda.compile import Kernel, Words
from naa_fast.ops import Choice
from naa_fast.rank import RankingPass
from naa_fast.rank.codes import coded
from naa_fast.rank.directions import Directions
from naa_fast.rank.groups import MOST
from naa_fast.rank.scorer import Scorer
from naa_fast.scan.loop import measure
from naa_fast.scan.options import RunOptions

BUDGET = 60
"""Operations of ranking a batch, beyond the hooks. Views of tensors cost no launch and are not counted."""
IN_A_HOOK = 1
"""In each hook the portable backend copies a sample's only position; of several it has what it needs."""
BATCH, WIDTH = 64, 24
GPU = torch.device("cuda", 0)
VIEWS = (
    "view", "_unsafe_view", "select", "slice", "expand", "t", "transpose", "unsqueeze", "squeeze", "permute", "detach", "alias",
    "as_strided", "unbind", "split", "split_with_sizes", "lift_fresh", "device",
)  # fmt: skip


class Dispatched(TorchDispatchMode):
    """Counts what is run inside it, and what waits for a device or leaves it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.operations: Counter[str] = Counter()
        self.waits: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        keywords = keywords or {}
        name = operation.overloadpacket.__name__
        self.operations[name] += 1
        on_device = any(isinstance(one, Tensor) and one.device.type == "cuda" for one in arguments)
        leaves = name in ("_to_copy", "to") and on_device and torch.device(keywords.get("device") or "cuda").type == "cpu"
        copied = name == "copy_" and arguments[0].device.type == "cpu" and arguments[1].device.type == "cuda"
        if name in ("_local_scalar_dense", "item", "equal", "is_nonzero", "nonzero") or leaves or copied:
            self.waits.append(name)
        return operation(*arguments, **keywords)

    @property
    def launches(self) -> int:
        return sum(times for name, times in self.operations.items() if name not in VIEWS)


def chain(layers: int, positions: bool) -> nn.Module:
    torch.manual_seed(0)
    if positions:
        return nn.Sequential(nn.Conv1d(WIDTH, WIDTH, 1), *(nn.Conv1d(WIDTH, WIDTH, 1) for _ in range(layers - 1))).eval()
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(layers - 1)), nn.Linear(WIDTH, 5)).eval()


def counted(layers: int, batches: int, verb: str, positions: bool, ranking: bool) -> Dispatched:
    random = torch.Generator().manual_seed(1)
    shape = (WIDTH, 6) if positions else (WIDTH,)
    small, large = (torch.randn(n * BATCH, *shape, generator=random) for n in (4, batches))
    model = chain(layers, positions)
    clean, suspect = (open_source(x, BATCH) for x in ((large, small) if verb == "fit" else (small, large)))
    passes = RankingPass(model, clean, suspect, backend="portable")
    if verb == "fit":
        with Dispatched() as dispatched:
            measure(model, clean, RunOptions(backend="portable"), observer=passes.clean if ranking else None)
        return dispatched
    if ranking:
        passes.calibrate(measure(model, clean, RunOptions(backend="portable"), observer=passes.clean))
    with Dispatched() as dispatched:
        measure(model, suspect, RunOptions(backend="portable"), observer=passes.suspect if ranking else None)
    return dispatched


def a_batch(layers: int, verb: str, positions: bool) -> tuple[float, int]:
    """Launches that ranking adds to a batch, and waits in all of them."""
    more, waits = [], 0
    for ranking in (True, False):
        few, many = (counted(layers, batches, verb, positions, ranking) for batches in (2, 4))
        more.append((many.launches - few.launches) / 2)
        waits += len(many.waits) if ranking else -len(many.waits)
    return more[0] - more[1], waits


@pytest.mark.parametrize("positions", [False, True], ids=["one position", "several"])
@pytest.mark.parametrize("verb", ["fit", "score"])
def test_ranking_takes_sixty_operations_a_batch_whatever_the_number_of_layers(verb: str, positions: bool) -> None:
    in_hooks = 0 if positions else IN_A_HOOK
    found = {layers: a_batch(layers, verb, positions)[0] - layers * in_hooks for layers in (10, 30)}
    assert found[10] == found[30]
    assert found[10] <= BUDGET


def on_device(value: Any, mode: FakeTensorMode) -> Any:
    """What is made of tensors on the host, of fake ones on a device that there is not."""
    if isinstance(value, Tensor):
        return FakeTensor(mode, value.to("meta"), GPU)
    if isinstance(value, torch.device):
        return GPU
    if isinstance(value, dict):
        return {on_device(key, mode): on_device(one, mode) for key, one in value.items()}
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(on_device(one, mode) for one in value)
    if type(value).__module__ in ("naa_fast.rank.packed", "naa_fast.rank.everywhere") and hasattr(value, "__dict__"):
        for name, held in vars(value).items():
            object.__setattr__(value, name, on_device(held, mode))
    return value


def on_a_gpu(layers: int, verb: str, classes: int) -> Dispatched:
    """The work of one batch in the middle of a pass, with fake CUDA tensors."""
    random = np.random.default_rng(0)
    widths = {f"layer {n}": (40, 200, 900)[n % 3] for n in range(layers)}
    views = {name: torch.from_numpy(random.standard_normal((BATCH, width))).float() for name, width in widths.items()}
    predicted = torch.from_numpy(random.integers(0, classes, BATCH))
    codes = coded(torch.from_numpy(random.standard_normal((BATCH, classes)))) if classes > MOST else None
    scorer = Scorer(classes, Directions(widths, (1000, 1000)))
    part = Batch((torch.zeros(BATCH, 3),), {}, BATCH, None)
    scorer.fit(part, Views(Views.of(views).packs, codes), predicted, np.arange(BATCH))
    if verb != "fit":
        scorer.merge(scorer.fitted())
        scorer.freeze()
        scorer.settle()
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        packs = Views.of({name: on_device(view, mode) for name, view in views.items()}).packs
        fake = Views(packs, on_device(codes, mode))
        classes = on_device(predicted, mode)
        scorer.fitting = on_device(scorer.fitting, mode)
        if verb != "fit":
            scorer.scoring = on_device(scorer.scoring, mode)
        scorer.directions = Directions(widths, (1000, 1000))
        scorer.waiting.forget()
        scorer._tables = on_device(scorer._tables, mode)
        for batch in (0, 1):  # the first one fixes where the layers lie
            with Dispatched() as dispatched:
                getattr(scorer, verb)(part, fake, classes, np.arange(batch * BATCH, (batch + 1) * BATCH))
    return dispatched


@pytest.mark.parametrize("classes", [5, 1000])
@pytest.mark.parametrize("verb", ["fit", "calibrate", "score"])
def test_on_a_gpu_nothing_waits_nothing_leaves_it_and_layers_cost_no_launch(verb: str, classes: int) -> None:
    few, many = on_a_gpu(10, verb, classes), on_a_gpu(100, verb, classes)
    assert few.waits == many.waits == []
    assert few.launches == many.launches <= BUDGET


class Reads(Dispatched):
    """Operations that read memory of any of `outputs`, views of it aside."""

    def __init__(self, outputs: list[Tensor]) -> None:
        super().__init__()
        self.outputs = {x.untyped_storage().data_ptr() for x in outputs}
        self.reads: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        if operation.overloadpacket.__name__ not in VIEWS:
            held = [one for one in arguments if isinstance(one, Tensor)]
            self.reads += [str(operation) for one in held if one.untyped_storage().data_ptr() in self.outputs]
        return super().__torch_dispatch__(operation, types, arguments, keywords)


@pytest.mark.skipif(host.missing() is not None, reason=str(host.missing()))
@pytest.mark.parametrize("masked", [False, True])
def test_with_the_cuda_kernels_each_activation_is_read_by_one_launch_and_by_nothing_else(
    masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launchers as they are, their kernels run on the host; the second batch, since the first fixes what is called often."""
    runtime, read = host.HostRuntime(), list[int]()
    backend, launch = host.HostBackend(runtime), runtime.launch
    monkeypatch.setattr(Choice, "module", property(lambda choice: backend))

    def noted(kernel: Kernel, grid: int, words: Words) -> None:
        read.append(int(words[0]))
        launch(kernel, grid, words)

    monkeypatch.setattr(runtime, "launch", noted)
    mask = torch.arange(8) % 3 > 0 if masked else None
    accumulator = Accumulator("portable", tails=False)
    accumulator.samples = Samples()
    for batch in range(2):
        outputs = [torch.randn(8, 6, 1), torch.randn(8, 5, 9), torch.randn(8, 1, 7, dtype=torch.float64), torch.randn(8, 6, 1)]
        with Reads(outputs) as seen:
            accumulator.begin(8, batch * 8, mask)
            read.clear()
            for number, x in enumerate(outputs):
                accumulator.observe(f"layer {number}", x, "NCHW")
            packs = accumulator.views().packs
        accumulator.commit()
    assert seen.reads == []
    assert [read.count(x.data_ptr()) for x in outputs] == [1] * 4
    assert seen.launches <= 2 * len(outputs) + 2, "partials and copies are allocated, and nothing else"
    assert [pack.layout for pack in packs] == [(("layer 0", 6), ("layer 1", 10), ("layer 2", 2), ("layer 3", 6))]


def test_the_counter_sees_what_waits() -> None:
    with FakeTensorMode(), Dispatched() as dispatched:
        torch.zeros(3, device=GPU).to("cpu")
    assert dispatched.waits == ["_to_copy"]
    with Dispatched() as dispatched:
        float(torch.zeros(()))
    assert dispatched.waits == ["_local_scalar_dense"]
