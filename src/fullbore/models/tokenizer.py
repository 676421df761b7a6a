"""Byte-level BPE tokenizers: trained here, or anyone's tokenizer.json.

Text is split before merging as in GPT-4 (contractions, words with one leading mark, up to three digits, marks, line
ends, runs of space), and runs of Han and kana stand alone, never glued to a space, a mark or a Latin word
beside them. Every byte has a token, so any text comes back unchanged. Nothing in a text is read as a special token.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from fullbore.base.errors import InputError
from fullbore.record import artifact
from fullbore.record.artifact import Artifact
from fullbore.spec.data import TokenizerSection
from fullbore.trust import loadsafe

END_OF_TEXT = "<|endoftext|>"
PAD = "<|pad|>"
MASK = "<|mask|>"
_FILE = "tokenizer.json"
_CJK = r"\p{Han}\p{Hiragana}\p{Katakana}"
SPLIT = "|".join(
    (
        r"'(?i:[sdmt]|ll|ve|re)(?![\p{L}\p{M}])",
        rf"[{_CJK}]+",
        rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}&&[^{_CJK}]]+",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
"""Oniguruma syntax."""
_ENDS = (END_OF_TEXT, "</s>", "<eos>", "<|end_of_text|>", "<|eot_id|>", "[SEP]")
_PADS = (PAD, "<pad>", "[PAD]")
_MASKS = (MASK, "<mask>", "[MASK]")


@dataclass(frozen=True)
class Tokenizer:
    """Text to tokens and back. Safe to call from many threads; the work releases the GIL."""

    folder: Path
    inner: tokenizers.Tokenizer
    end_of_text: int
    """Stands between documents."""
    pad: int
    mask: int | None
    specials: tuple[int, ...]

    @property
    def vocabulary_size(self) -> int:
        size: int = self.inner.get_vocab_size(with_added_tokens=True)
        return size

    @property
    def dtype(self) -> type[np.uint16] | type[np.uint32]:
        """The smallest that holds every id."""
        return np.uint16 if self.vocabulary_size <= 1 << 16 else np.uint32

    def encode_batch(self, texts: Sequence[str], limit: int | None = None) -> list[NDArray[Any]]:
        """The tokens of each text, in `dtype`, with what a foreign tokenizer puts around a text.

        `limit` cuts a text to so many tokens; a closing special token stays the last.
        """
        encoded = self.inner.encode_batch_fast(list(texts), add_special_tokens=True)
        return [self._cut(np.array(one.ids, self.dtype), limit) for one in encoded]

    def encode(self, text: str) -> NDArray[Any]:
        return self.encode_batch([text])[0]

    def _cut(self, ids: NDArray[Any], limit: int | None) -> NDArray[Any]:
        if limit is None or len(ids) <= limit:
            return ids
        if ids[-1] in self.specials:
            return np.concatenate((ids[: limit - 1], ids[-1:]))
        return ids[:limit]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids` without special tokens; bytes that are not UTF-8 become U+FFFD."""
        text: str = self.inner.decode([int(token) for token in ids], skip_special_tokens=True)
        return text


def train(texts: Iterable[str], section: TokenizerSection, out: Path, parents: Iterable[Artifact] = ()) -> Artifact:
    """Learn a vocabulary from the first `training_bytes` of `texts`; the artifact holds what transformers reads too.

    The vocabulary is smaller than asked where the text has no more pairs to merge. The same texts give the same bytes.
    Raises InputError if there is no text.
    """
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=section.vocabulary_size,
        special_tokens=[END_OF_TEXT, PAD, MASK],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    read = [0]
    inner.train_from_iterator(_within(texts, section.training_bytes, read), trainer)
    if not read[0]:
        raise InputError(
            "tokenizer: there is no text to learn from", hint="check data.source, data.text and data.include"
        )
    inner.encode_special_tokens = True
    with artifact.create(out, "tokenizer", parents) as draft:
        inner.save(str(draft.folder / _FILE))
        _write_config(draft.folder)
        draft.info.update(_info(load(draft.folder)), training_bytes=read[0])
    return artifact.read(out, "tokenizer")


def _within(texts: Iterable[str], limit: int, read: list[int]) -> Iterator[str]:
    for text in texts:
        if read[0] >= limit:
            return
        kept = text.encode()[: limit - read[0]]
        read[0] += len(kept)
        yield kept.decode(errors="ignore")


def _write_config(folder: Path) -> None:
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TEXT,
        "pad_token": PAD,
        "mask_token": MASK,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")


def _info(made: Tokenizer) -> dict[str, Any]:
    return {
        "vocabulary_size": made.vocabulary_size,
        "end_of_text": made.end_of_text,
        "pad": made.pad,
        "mask": made.mask,
    }


def adopt(folder: Path, out: Path) -> Artifact:
    """Copy someone else's tokenizer into an artifact. Raises InputError if `folder` holds none that can be read."""
    info = _info(load(folder))
    with artifact.create(out, "tokenizer") as draft:
        copy_files(folder, draft.folder)
        draft.info.update(info)
    return artifact.read(out, "tokenizer")


def copy_files(folder: Path, out: Path) -> None:
    """Copy what makes a tokenizer from one folder to another."""
    for path in files(folder):
        shutil.copyfile(path, out / path.name)


def files(folder: Path) -> list[Path]:
    """What makes a tokenizer, of what lies in `folder`."""
    names = (_FILE, "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
    return [folder / name for name in names if (folder / name).is_file()]


def holds(folder: Path) -> bool:
    """Whether a tokenizer lies in `folder`."""
    return (folder / _FILE).is_file() or (folder / "vocab.txt").is_file()


def load(folder: Path) -> Tokenizer:
    """Open tokenizer.json (or a BERT vocab.txt). Raises InputError naming what is missing or damaged."""
    inner = _open(folder)
    inner.no_truncation()
    inner.no_padding()
    inner.encode_special_tokens = True
    named: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            named |= loadsafe.require_no_code(loadsafe.read_json(folder / name), folder / name)
    end = _special(inner, named, ("eos_token", "sep_token"), _ENDS)
    pad = _special(inner, named, ("pad_token",), _PADS)
    if end is None and pad is None:
        raise InputError(
            f"{folder}: neither an end-of-text nor a padding token is named",
            hint='name it in tokenizer_config.json: {"eos_token": "</s>"}',
        )
    added = inner.get_added_tokens_decoder()
    return Tokenizer(
        folder=folder,
        inner=inner,
        end_of_text=end if end is not None else pad or 0,
        pad=pad if pad is not None else end or 0,
        mask=_special(inner, named, ("mask_token",), _MASKS),
        specials=tuple(sorted(token for token, what in added.items() if what.special)),
    )


def _open(folder: Path) -> tokenizers.Tokenizer:
    path = folder / _FILE
    if path.is_file():
        try:
            return tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the binding raises bare Exceptions
            raise InputError(
                f"{path}: cannot be read as a tokenizer ({error})", hint="fetch the folder again"
            ) from None
    vocabulary = folder / "vocab.txt"
    if vocabulary.is_file():
        config = (
            loadsafe.read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
        )
        made = tokenizers.BertWordPieceTokenizer(str(vocabulary), lowercase=bool(config.get("do_lower_case", True)))
        return tokenizers.Tokenizer.from_str(made.to_str())
    raise InputError(
        f"{folder}: no {_FILE}",
        hint='python -c "from transformers import AutoTokenizer as T; '
        f"T.from_pretrained('{folder}').save_pretrained('{folder}')\"",
    )


def _special(
    inner: tokenizers.Tokenizer, named: dict[str, Any], keys: Sequence[str], usual: Sequence[str]
) -> int | None:
    written = [named.get(key) for key in keys]
    texts = [value.get("content") if isinstance(value, dict) else value for value in written]
    for text in (*texts, *usual):
        if isinstance(text, str) and (token := inner.token_to_id(text)) is not None:
            return int(token)
    return None
