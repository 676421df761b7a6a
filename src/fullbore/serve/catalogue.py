"""The models that are served, and what each can be asked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from fullbore.base.errors import UsageError
from fullbore.models.tokenizer import Tokenizer
from fullbore.models.weights import LoadedModel
from fullbore.serve.errors import ApiError, invalid

_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
_LONGEST_TOKEN = 256
"""Characters; a text of more than so many a token is not even tokenised."""
_TOO_LONG = "context_length_exceeded"
"""OpenAI's code: clients look for it to shorten what they send."""


@dataclass(frozen=True)
class Served:
    """One model under the name that clients use."""

    name: str
    loaded: LoadedModel

    @property
    def generates(self) -> bool:
        return self.loaded.task.kind == "causal_lm"

    @property
    def takes(self) -> Literal["tokens", "features", "pixels"]:
        """The column that its batches hold."""
        if self.loaded.sizes.image is not None:
            return "pixels"
        return "features" if self.loaded.sizes.features is not None else "tokens"

    @property
    def tokenizer(self) -> Tokenizer:
        """Of a model that reads text; the catalogue has made sure that there is one."""
        assert self.loaded.tokenizer is not None
        return self.loaded.tokenizer

    def encode(self, texts: Sequence[str], field: str, limit: int | None = None) -> list[NDArray[Any]]:
        """The tokens of `texts`, cut to `limit` each. Raises ApiError 400 for text that is not Unicode."""
        context = self.loaded.sizes.sequence_length
        for text in texts:
            if self.generates and context is not None and len(text) > context * _LONGEST_TOKEN:
                message = f"{field}: found {len(text)} characters, expected at most {context} tokens"
                raise invalid(message, field, _TOO_LONG)
            try:
                text.encode()
            except UnicodeEncodeError as error:
                message = f"{field}: character {error.start} is half of a surrogate pair, expected Unicode text"
                raise invalid(message, field, "not_unicode") from None
        return self.tokenizer.encode_batch(list(texts), limit)

    def fitting(self, tokens: Sequence[int], max_tokens: int, field: str) -> tuple[int, ...]:
        """`tokens` as a prompt; an empty one becomes the token that begins a text. Raises ApiError 400 if too long."""
        prompt = tuple(tokens) or (self.tokenizer.end_of_text,)
        context = self.loaded.sizes.sequence_length
        if context is not None and len(prompt) + max_tokens > context:
            found = f"{len(prompt)} tokens of prompt and {max_tokens} to generate"
            raise invalid(f"{field}: found {found}, expected at most {context} together", field, _TOO_LONG)
        return prompt


class Catalogue:
    """Names to models, in the order in which they were given."""

    def __init__(self, models: Mapping[str, LoadedModel]) -> None:
        for name in models:
            if not _NAME.fullmatch(name):
                raise UsageError(f"model name {name[:64]!r}: expected letters, digits, '.', '_' and '-', at most 128")
        self._models = {name: Served(name, loaded) for name, loaded in models.items()}
        for served in self:
            if served.takes == "tokens" and served.loaded.tokenizer is None:
                raise UsageError(f"model {served.name!r} reads text and has no tokenizer in its folder")
            if served.loaded.task.kind == "masked_lm":
                raise UsageError(
                    f"model {served.name!r} was trained to fill masks and has no answer to serve",
                    hint="fine-tune it for classification or regression, or serve another model",
                )

    def __iter__(self) -> Iterator[Served]:
        return iter(self._models.values())

    def named(self, name: str) -> Served:
        """Raises ApiError 404."""
        if name not in self._models:
            known = ", ".join(self._models)
            raise ApiError(404, f"no model {name[:64]!r}; served are: {known}", param="model", code="model_not_found")
        return self._models[name]

    def language_model(self, name: str | None) -> Served:
        """The model called `name`, or the only language model. Raises ApiError 400, 404."""
        if name is None:
            fitting = [served for served in self if served.generates]
            if len(fitting) != 1:
                raise invalid(
                    f"model: missing, and {len(fitting)} language models are served", "model", "missing_field"
                )
            return fitting[0]
        served = self.named(name)
        if not served.generates:
            raise invalid(
                f"model: {name!r} does {served.loaded.task.kind}; ask POST /v2/models/{name}/infer",
                "model",
                "wrong_task",
            )
        return served
