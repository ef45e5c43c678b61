"""Text as batches of tokens: `.txt`, `.jsonl`, `.csv`, `.parquet` and dataset folders, padded and masked here."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from naa_fast.detect.trigger import Decoder
from naa_fast.errors import InputError, UsageError
from naa_fast.inputs.arrow import read_dataset, read_parquet
from naa_fast.inputs.batches import Batch, Rejected, Source
from naa_fast.inputs.identity import identity_of_words
from naa_fast.inputs.labels import Labels
from naa_fast.inputs.lines import LABELS, Chat, Texts, read_csv, read_jsonl, read_lines
from naa_fast.records import FOLD_BLOCK, FOLDS

OF_TEXTS = ("text_field", "tokenizer", "max_length", "skip_special", "bucket")
"""Options of the command line that mean nothing where no set is of texts."""
SIDES = ("right", "left")
NO_LIMIT = 10**6  # a tokenizer without a length limit announces 1e30
PERIOD = FOLDS * FOLD_BLOCK
WINDOW = 64 * PERIOD
"""Texts that are put in order of length at a time: enough that batches fit tightly, few enough to hold."""

Row = tuple[list[int], list[int]]
BLANK = "blank: there is nothing to observe"


@dataclass(frozen=True)
class TextOptions:
    """How text becomes tokens.

    `tokenizer`: a transformers tokenizer. `field`: the column of anything but a `.txt`. `max_length`: longer texts are cut there;
    None refuses a text longer than the tokenizer's limit, since what is cut off is never scanned. `skip_special`: the tokens the
    tokenizer adds around a text are seen by the model and left out of the statistics; a special token written in the text itself
    counts, or a trigger could hide as one. `position_ids`: pass them, counted from the first real token (`wants_positions`).
    `bucket`: batch texts of like length together, see `by_length`. `pad_id`: the model's own padding token, if it is known, and
    `positions` how many tokens it has positions for: a longer text is refused whatever the tokenizer's limit.
    """

    tokenizer: Any
    field: str | None = None
    max_length: int | None = None
    padding_side: str = "right"
    skip_special: bool = False
    position_ids: bool = False
    bucket: bool = False
    pad_id: int | None = None
    positions: int | None = None

    @property
    def limit(self) -> tuple[int, str]:
        """Most tokens of a text, and whose limit that is."""
        known = getattr(self.tokenizer, "model_max_length", NO_LIMIT)
        if self.positions is not None and self.positions < known:
            return self.positions, "which the model has positions for"
        return known, "the tokenizer's limit"

    @property
    def fill(self) -> int:
        """What a short text is filled up with: `pad_id`, else the tokenizer's own, else its end of text."""
        known = self.pad_id, self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        return next((i for i in known if i is not None), 0)

    def __post_init__(self) -> None:
        if self.padding_side not in SIDES:
            raise UsageError(f"padding side is '{self.padding_side}'", f"expected one of {', '.join(SIDES)}")
        if self.max_length is not None and self.max_length < 1:
            raise UsageError(f"max length is {self.max_length}", "expected 1 token or more")


class TextSource:
    """A list of texts, each one sample, as `input_ids`, `attention_mask` and the mask of the tokens that count.

    A batch is padded to its longest text. Blank texts hold nothing to observe: they are left out and named in `Batch.rejected`.
    """

    read_ahead = True

    def __init__(self, name: str, texts: Sequence[str], batch_size: int, options: TextOptions) -> None:
        if not texts:
            raise InputError(f"{name} has no text", "it is empty", "expected at least two samples")
        self.name = name
        self.samples: int | None = len(texts)
        self.texts = texts
        self.batch_size = batch_size
        self.options = options
        told = texts if isinstance(texts, Texts) else Texts(texts)
        labels = Labels.of(told.labels, f"the field {LABELS[0]} of {name}")
        self.labels = None if labels is None else labels.numbers
        self.label_names, self.labelled = (labels.names, labels.words) if labels is not None else ((), "")
        self.reading = told.reading
        self._cut: set[int] = set()

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        stop = len(self.texts) if stop is None else min(stop, len(self.texts))
        if self.options.bucket:
            yield from self.bucketed(start, stop)
            return
        rejected: list[Rejected] = []
        for first in range(start, stop, self.batch_size):
            rows = [self.encode(index) for index in range(first, min(first + self.batch_size, stop))]
            kept = [row for row in rows if row[0]]
            rejected += [Rejected(first + at, None, BLANK) for at, row in enumerate(rows) if not row[0]]
            if kept:
                places = [first + at for at, row in enumerate(rows) if row[0]]
                yield replace(padded(kept, self.options, tuple(rejected)), labels=self.labels_of(places))
                rejected = []
        if rejected:
            yield Batch((), {}, 0, None, tuple(rejected))

    def labels_of(self, places: list[int]) -> Tensor | None:
        return None if self.labels is None else self.labels[places]

    @property
    def left_out(self) -> tuple[str, ...]:
        """What was cut off of the texts that were read."""
        if not self._cut:
            return ()
        return (
            f"what {len(self._cut)} texts of {self.name} may hold beyond {self.options.max_length} tokens, where they were cut",
        )

    @property
    def read_as(self) -> str:
        """What decides which tokens there are, and which of them count."""
        options, name = self.options, getattr(self.options.tokenizer, "name_or_path", "")
        asked = f"field {options.field}, max length {options.max_length}, padding {options.padding_side}, bucket {options.bucket}"
        return f"tokenizer {name}, {asked}, special tokens {'left out' if options.skip_special else 'counted'}"

    def identity(self) -> str:
        """Of the texts."""
        return identity_of_words(self.texts)

    def in_order(self) -> TextSource:
        """The same set, never bucketed: for whoever tells one sample from another by its place."""
        return TextSource(self.name, self.texts, self.batch_size, replace(self.options, bucket=False))

    def bucketed(self, start: int, stop: int) -> Iterator[Batch]:
        """The same samples, a window at a time in order of length."""
        rows = enumerate((self.encode(index) for index in range(start, stop)), start)
        while window := list(islice(rows, WINDOW)):
            usable = [(index, row) for index, row in window if row[0]]
            kept = by_length(usable)
            rejected = tuple(Rejected(index, None, BLANK) for index, row in window if not row[0])
            for first in range(0, len(kept), self.batch_size):
                part = kept[first : first + self.batch_size]
                batch = padded([row for _, row in part], self.options, rejected)
                yield replace(batch, items=torch.tensor([index for index, _ in part]))
                rejected = ()
            if rejected:
                yield Batch((), {}, 0, None, rejected)

    def encode(self, index: int) -> tuple[list[int], list[int]]:
        """Token ids of one text, and for each whether the tokenizer added it; both empty for a blank text."""
        text, options = self.texts[index], self.options
        if not text.strip():
            return [], []
        where = f"sample {index} of {self.name}"
        limit, whose = options.limit
        cutting: dict[str, Any] = {}
        if options.max_length is not None:
            cutting = {"truncation": True, "max_length": options.max_length}
        try:
            text.encode("utf-8")
            if isinstance(text, Chat):
                encoded = self.conversation(text, where)
            else:
                encoded = options.tokenizer(text, return_special_tokens_mask=True, **cutting)
        except InputError:
            raise
        except Exception as error:  # tokenizers are many, and the text is anybody's
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(f"{where} cannot be tokenised", first, "correct the text or leave it out") from error
        ids, special = list(encoded["input_ids"]), list(encoded["special_tokens_mask"])
        if options.max_length is not None and len(ids) >= options.max_length:
            self._cut.add(index)
        beyond = options.max_length is None or limit == options.positions  # a tokenizer's limit may be a person's to exceed
        if beyond and len(ids) > limit and limit < NO_LIMIT:
            raise InputError(
                f"{where} has {len(ids)} tokens",
                f"expected at most {limit}, {whose}",
                f"cut long texts with --max-length {limit}; what is cut off is not scanned",
            )
        return ids, special

    def conversation(self, chat: Chat, where: str) -> dict[str, list[int]]:
        """A conversation by the tokenizer's own template, up to where the model is to answer; a long one cut in front, so that it
        is asked to. Raises InputError where there is no template.
        """
        tokenizer, messages = self.options.tokenizer, chat.messages
        if not getattr(tokenizer, "chat_template", None):
            raise InputError(
                f"{where} is a conversation",
                "the tokenizer has no chat template to make a text of it",
                "write the text as the model reads it in the field 'text', or name the tokenizer of a chat model",
            )
        asked = messages[-1]["role"] != "assistant"
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asked)
        encoded = tokenizer(text, add_special_tokens=False, return_special_tokens_mask=True)
        last = slice(-(self.options.max_length or NO_LIMIT), None)  # the template has its own marks
        return {name: list(encoded[name])[last] for name in ("input_ids", "special_tokens_mask")}


def by_length(rows: list[tuple[int, Row]]) -> list[tuple[int, Row]]:
    """Numbered `rows` reordered so that neighbours are of like length, each in a place of the same calibration fold as its own.

    Folds repeat every PERIOD samples: of the rows that are PERIOD apart each takes a place of another, shortest first. Then a
    batch of consecutive rows holds the same share of each of PERIOD sorted lists, and so texts of about one length.
    """
    ordered = list(rows)
    for place in range(min(PERIOD, len(rows))):
        ordered[place::PERIOD] = sorted(rows[place::PERIOD], key=lambda row: len(row[1][0]))
    return ordered


def padded(rows: list[Row], options: TextOptions, rejected: tuple[Rejected, ...] = ()) -> Batch:
    """One batch from token ids and special-token marks, padded to its longest row. By torch and not by the tokenizer, which pads
    with its own token, where it has one; some models find the end of a text by another (`TextOptions.fill`).
    """

    def filled(values: list[list[int]], fill: int) -> Tensor:
        return pad_sequence([torch.tensor(row) for row in values], True, fill, options.padding_side)  # [texts, longest]

    ids = filled([ids for ids, _ in rows], options.fill)
    seen = filled([[1] * len(ids) for ids, _ in rows], 0)
    counted = filled([special for _, special in rows], 1) == 0 if options.skip_special else seen > 0
    keywords: dict[str, Tensor] = {"input_ids": ids, "attention_mask": seen}
    if options.position_ids:
        keywords["position_ids"] = (seen.cumsum(1) - 1).clamp(min=0)
    return Batch((), dict(keywords), len(rows), counted, rejected)


def open_text(path: Path, batch_size: int, options: TextOptions | None) -> TextSource:
    """The texts in a file or dataset folder, read whole: `.txt` a line each, else the field `options.field` of each record.

    Raises:
        InputError: no tokenizer, text that is not UTF-8, a record that is damaged or lacks the field, or no text at all.
    """
    if options is None:
        raise InputError(
            f"cannot read text from {path}",
            "a text needs the tokenizer of the model, and none is known",
            "use a model of the form hf:FOLDER, or name a folder with --tokenizer",
        )
    readers = {".txt": read_lines, ".jsonl": read_jsonl, ".csv": read_csv, ".parquet": read_parquet}
    read = read_dataset if path.is_dir() else readers.get(path.suffix.lower(), read_dataset)
    try:
        texts = read(path, options.field)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8", f"byte {error.start}: {error.reason}", "save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"cannot read {path}", str(error.strerror), "check the permissions of the file") from error
    return TextSource(str(path), texts, batch_size, options)


def require_texts(options: Mapping[str, Any], sources: Sequence[Source]) -> None:
    """Raise UsageError where one of the `options` is for texts (OF_TEXTS) and was given, and none of the sets holds any."""
    asked = [name for name in OF_TEXTS if options.get(name)]
    if asked and not any(isinstance(source, TextSource) for source in sources):
        raise UsageError(
            f"--{asked[0].replace('_', '-')} with {', '.join(source.name for source in sources)}",
            "it is for texts: token ids in an array are taken as they are",
            "leave it out, or cut and mask the array itself",
        )


def wants_positions(model: nn.Module) -> bool:
    """Whether left padding needs `position_ids` for `model`; models that number them from the padding (RoBERTa) must get none.

    Raises UsageError for a model that takes none and would number the padding too.
    """
    if any(hasattr(module, "create_position_ids_from_input_ids") for module in model.modules()):
        return False
    if "position_ids" in inspect.signature(model.forward).parameters:
        return True
    raise UsageError(
        f"{type(model).__name__} takes no position_ids",
        "with padding on the left its activations would depend on the padding",
        "use --padding-side right",
    )


def decoder(source: Source) -> Decoder | None:
    """Token ids to text by the set's own tokenizer, if it has one; the ids where it fails, as a stranger's tokenizer may."""
    tokenizer = getattr(getattr(source, "options", None), "tokenizer", None)
    if tokenizer is None:
        return None

    def decode(tokens: tuple[int, ...]) -> str:
        try:
            return str(tokenizer.decode(list(tokens)))
        except Exception:
            return " ".join(map(str, tokens))

    return decode
