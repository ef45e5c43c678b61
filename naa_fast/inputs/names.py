"""`names_of`: what people call a model's classes: a file of names, the model's own, or the text of its next tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from naa_fast.capture.class_names import own_names, vocabulary
from naa_fast.detect.names import TOKEN, Names
from naa_fast.errors import InputError, UsageError
from naa_fast.inputs.batches import Source

MOST_NAMES = 1 << 20
MOST_TEXTS = 20_000
"""Next tokens whose text is kept, those that are most often predicted."""


def read_names(path: Path) -> dict[int, str]:
    """The names in a file: of `.json` a list, or an object by number; of any other a name a line, the first of class 0.

    Raises InputError for a file that cannot be read, or holds something else.
    """
    expected = "expected a JSON list of names, an object from number to name, or a text with a name a line"
    try:
        text = path.read_text("utf-8-sig")
        content: Any = json.loads(text) if path.suffix.lower() == ".json" else text.splitlines()
        pairs = enumerate(content) if isinstance(content, list) else ((int(number), name) for number, name in content.items())
        names = {number: name for number, name in pairs if number >= 0}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"cannot read class names from {path}", str(error), expected) from None
    if not names or len(names) > MOST_NAMES or not all(isinstance(name, str) for name in names.values()):
        raise InputError(f"{path} holds no class names", f"found {len(names)} entries, which are not all text", expected)
    return names


def require_names(given: Any) -> None:
    """Raise UsageError unless these are names by class number, or nothing."""
    if given is None:
        return
    if not isinstance(given, Mapping) or not all(type(cls) is int and isinstance(name, str) for cls, name in given.items()):
        raise UsageError(
            f"class_names is a {type(given).__name__}, or holds something else than names by number",
            "expected a mapping such as {0: 'cat', 1: 'dog'}",
            "of a list make one: dict(enumerate(names))",
        )


def miscounted(given: Mapping[int, str] | None, counts: Sequence[Any]) -> tuple[str, ...]:
    """A note where names are given for more or fewer classes than the model has: whose they are is in doubt. `counts`: as of
    `names_of`.
    """
    classes = classes_in(counts)
    if not given or classes < 1 or set(given) == set(range(classes)):
        return ()
    return (f"whether classes are called right: {len(given)} names were given for {classes} classes",)


def names_of(model: nn.Module, sources: Sequence[Source], counts: Sequence[Any], given: Mapping[int, str] | None = None) -> Names:
    """The names that are `given`, else the model's own `id2label`, else, of a model whose classes are its vocabulary, the text of
    the tokens that were predicted. `counts`: how often each class was, a set each.
    """
    if given:
        return Names(dict(given))
    classes = classes_in(counts)
    if classes >= 2 and vocabulary(model) == classes:
        return Names(texts_of(sources, counts), TOKEN)
    return Names(own_names(model, classes))


def classes_in(counts: Sequence[Any]) -> int:
    """How many classes were counted: the last place of each count is for samples without one."""
    return max((len(count) - 1 for count in counts), default=0)


def texts_of(sources: Sequence[Source], counts: Sequence[Any]) -> dict[int, str]:
    """The text of the tokens that were predicted, by the sets' own tokenizer."""
    tokenizers = (getattr(getattr(source, "options", None), "tokenizer", None) for source in sources)
    tokenizer = next(filter(None, tokenizers), None)
    if tokenizer is None:
        return {}
    often: dict[int, int] = {}
    for count in counts:
        for cls in count[:-1].nonzero()[0].tolist():
            often[cls] = often.get(cls, 0) + int(count[cls])
    texts = {}
    for cls in sorted(often, key=lambda cls: -often[cls])[:MOST_TEXTS]:
        try:
            texts[cls] = str(tokenizer.decode([cls]))
        except Exception:  # a stranger's tokenizer
            continue
    return texts
