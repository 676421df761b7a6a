"""Model folders: model.safetensors, config.json and the tokenizer's files; what transformers knows, it opens too.

config.json is the architecture's own (Llama's for the decoder) with one more key, `fullbore`: the sections, sizes,
classes and statistics that rebuild the network. What transformers does not know has a model_type of ours.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fullbore.base.errors import CorruptError, InputError
from fullbore.models import decoder, hub, quantized
from fullbore.models import tokenizer as vocabularies
from fullbore.models.build import Sizes, build
from fullbore.models.decoder import Decoder
from fullbore.models.hub import Hub
from fullbore.models.tokenizer import Tokenizer
from fullbore.record import artifact
from fullbore.record.artifact import Artifact
from fullbore.spec.model import ModelSection, TaskSection, TransformersModel
from fullbore.trust import loadsafe

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
_SECTION: TypeAdapter[ModelSection] = TypeAdapter(ModelSection)
_FACTS = ("variant", "classes", "statistics")


@dataclass(frozen=True)
class LoadedModel:
    """A network ready to answer, in eval mode, and what is known of it."""

    module: nn.Module
    model: ModelSection
    task: TaskSection
    sizes: Sizes
    tokenizer: Tokenizer | None
    classes: tuple[str, ...] | None
    statistics: Mapping[str, Any] | None
    """mean, deviation of the features, target_mean, target_deviation; none where nothing was standardised."""
    name: str
    info: Mapping[str, Any]
    artifact: Artifact | None

    @property
    def variant(self) -> str:
        return str(self.info.get("variant", "fp32"))


def save(
    module: nn.Module,
    out: Path,
    *,
    model: ModelSection,
    task: TaskSection,
    sizes: Sizes,
    tokenizer: Path | None,
    info: Mapping[str, Any],
    parents: Iterable[Artifact],
) -> Artifact:
    """Write a `model` artifact. `info`: variant, metrics, evidence, and `classes` and `statistics`, or the `data`
    (info of the shards) that holds them; the data's own info is not kept."""
    data = info.get("data", {})
    facts = {key: info.get(key, data.get(key)) for key in _FACTS}
    facts["variant"] = facts["variant"] or "fp32"
    with artifact.create(out, "model", parents) as draft:
        _write_weights(module, draft.folder / WEIGHTS)
        config = _config(module, model, task, sizes, facts, tokenizer)
        (draft.folder / CONFIG).write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n")
        if tokenizer is not None:
            vocabularies.copy_files(tokenizer, draft.folder)
        kept = {key: value for key, value in info.items() if key != "data"}
        draft.info.update({**kept, **facts, "parameters": parameters(module)})
    return artifact.read(out, "model")


def parameters(module: nn.Module) -> int:
    """How many numbers were learned; a shared one counts once, a quantised one counts as what it stands for."""
    layers = (layer for layer in module.modules() if isinstance(layer, quantized.Int8Linear))
    integers = sum(layer.int8_weight.numel() + (0 if layer.bias is None else layer.bias.numel()) for layer in layers)
    return sum(parameter.numel() for parameter in module.parameters()) + integers


def _write_weights(module: nn.Module, path: Path) -> None:
    """The state of a network without doubles: tied parameters are written once, under their first name."""
    state: dict[str, Tensor] = {}
    seen: set[tuple[int, torch.Size, int]] = set()
    for name, tensor in _bare(module).state_dict().items():
        key = (tensor.data_ptr(), tensor.shape, tensor.storage_offset())
        if tensor.numel() and key in seen:
            continue
        seen.add(key)
        state[name] = tensor.detach().contiguous().cpu()
    try:
        save_file(state, path, metadata={"format": "pt"})
    except SafetensorError as error:
        refused = re.search(r"os error (\d+)", str(error))
        if refused is None:
            raise
        number = int(refused[1])
        raise OSError(number, os.strerror(number), str(path)) from error


def _bare(module: nn.Module) -> nn.Module:
    """The module whose parameters have the names that are saved."""
    return module.network if isinstance(module, Hub) else module


def _config(
    module: nn.Module,
    model: ModelSection,
    task: TaskSection,
    sizes: Sizes,
    facts: Mapping[str, Any],
    folder: Path | None,
) -> dict[str, Any]:
    if isinstance(model, TransformersModel):
        model = model.model_copy(update={"folder": "."})
    ours: dict[str, Any] = {
        "model": model.model_dump(mode="json"),
        "task": task.model_dump(mode="json"),
        "sizes": asdict(sizes),
        **facts,
    }
    known: dict[str, Any] = {"model_type": f"fullbore-{model.kind}"}
    if isinstance(module, Hub):
        known = module.architecture()
        known["dtype"] = str(next(module.parameters()).dtype).removeprefix("torch.")
    elif isinstance(module, Decoder):
        made = vocabularies.load(folder) if folder is not None else None
        known = decoder.to_config(
            module,
            positions=sizes.sequence_length or 2048,
            end_of_text=made.end_of_text if made else None,
            pad=made.pad if made else None,
        )
    if facts["variant"] == "int8":
        ours["architecture"] = known
        known = {"model_type": "fullbore-int8"}
    return {**known, "fullbore": ours}


def load(folder: Path) -> LoadedModel:
    """Open a model folder, ours or someone else's, in eval mode and in the dtype it was saved in.

    Raises InputError for pickles, code and what is missing, CorruptError for damaged weights.
    """
    found = artifact.read(folder, "model") if (folder / artifact.MANIFEST).is_file() else None
    config = loadsafe.read_config(folder)
    files = loadsafe.weight_files(folder)
    vocabulary = vocabularies.load(folder) if vocabularies.holds(folder) else None
    ours = config.get("fullbore")
    if ours is None:
        return _foreign(folder, config, files, vocabulary)
    try:
        model = _SECTION.validate_python(ours["model"])
        task = TaskSection.model_validate(ours["task"])
        sizes = Sizes(**{**ours["sizes"], "image": tuple(ours["sizes"]["image"]) if ours["sizes"]["image"] else None})
    except (KeyError, TypeError, ValidationError) as error:
        raise InputError(f"{folder / CONFIG} fullbore: not what this version writes ({error})") from None
    module = _rebuild(folder, config, ours, model, task, sizes)
    _read_weights(module, files)
    info = dict(found.info) if found is not None else {key: ours.get(key) for key in _FACTS}
    return LoadedModel(
        module=module.eval(),
        model=model,
        task=task,
        sizes=sizes,
        tokenizer=vocabulary,
        classes=tuple(ours["classes"]) if ours.get("classes") else None,
        statistics=ours.get("statistics"),
        name=folder.resolve().name,
        info=info,
        artifact=found,
    )


def _rebuild(
    folder: Path, config: dict[str, Any], ours: dict[str, Any], model: ModelSection, task: TaskSection, sizes: Sizes
) -> nn.Module:
    if isinstance(model, TransformersModel):
        architecture = ours.get("architecture") or {key: value for key, value in config.items() if key != "fullbore"}
        return Hub.describe(loadsafe.require_no_code(architecture, folder / CONFIG), task.kind)
    architecture = ours.get("architecture") or config
    if model.kind == "decoder":
        return Decoder(model, int(architecture["vocab_size"]), epsilon=float(architecture["rms_norm_eps"]))
    return build(model, task, sizes, seed=0)


def _read_weights(module: nn.Module, files: list[Path], spare: tuple[str, ...] = ()) -> None:
    """Fill `module` from safetensors, in the dtypes of the files; names that end as in `spare` are not needed.

    Raises CorruptError where names or shapes differ.
    """
    state: dict[str, Tensor] = {}
    for path in files:
        try:
            with safe_open(path, "pt") as file:
                state.update({name: file.get_tensor(name) for name in file.keys() if not name.endswith(spare)})  # noqa: SIM118
        except SafetensorError as error:
            raise CorruptError(f"{path}: cannot be read ({error})", hint="fetch it again") from None
    target = _bare(module)
    ends = f".{quantized.WEIGHT}"
    quantized.prepare(target, [name.removesuffix(ends) for name in state if name.endswith(ends)])
    shared = _shared(target)
    state.update({name: state[first] for name, first in shared.items() if first in state and name not in state})
    expected = target.state_dict()
    wrong = sorted(expected.keys() ^ state.keys()) or [
        name for name, tensor in state.items() if tensor.shape != expected[name].shape
    ]
    if wrong:
        raise CorruptError(
            f"{files[0]}: {len(wrong)} tensors do not fit config.json, among them {', '.join(wrong[:3])}",
            hint="the folder's weights and config belong to different models",
        )
    target.load_state_dict({name: _laid_out(tensor, expected[name]) for name, tensor in state.items()}, assign=True)
    _tie(target, shared)
    for parameter in target.parameters():
        parameter.requires_grad_(parameter.is_floating_point())


def _laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    """`tensor` in memory of its own, aligned and with the strides of `like`, so that kernels round as before."""
    return torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)


def _shared(module: nn.Module) -> dict[str, str]:
    """Names of tied parameters, each with the first name of the tensor it shares."""
    first: dict[int, str] = {}
    shared: dict[str, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), name) != name:
            shared[name] = first[id(parameter)]
    return shared


def _tie(module: nn.Module, shared: Mapping[str, str]) -> None:
    for name, first in shared.items():
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, module.get_parameter(first))


def _foreign(folder: Path, config: dict[str, Any], files: list[Path], vocabulary: Tokenizer | None) -> LoadedModel:
    """A folder that transformers wrote: the decoder where it computes the same, else transformers' own network."""
    task = TaskSection.model_validate({"kind": hub.task_of(config, folder)})
    known = decoder.from_config(config) if task.kind == "causal_lm" else None
    model: ModelSection
    module: nn.Module
    if known is not None:
        model, epsilon = known
        module = Decoder(model, config["vocab_size"], epsilon=epsilon)
        _read_weights(
            module, files, spare=("rotary_emb.inv_freq", *(("lm_head.weight",) if model.tie_embeddings else ()))
        )
    else:
        model = TransformersModel(kind="transformers", folder=str(folder))
        module = Hub.open(folder, task.kind, outputs=None, vocabulary_size=None, pretrained=True)
    labels = config.get("id2label") if task.kind == "classification" else None
    classes = tuple(str(labels[key]) for key in sorted(labels, key=int)) if labels else None
    sizes = Sizes(
        vocabulary_size=config.get("vocab_size"),
        classes=len(classes) if classes else None,
        sequence_length=config.get("max_position_embeddings"),
    )
    variants = {torch.float32: "fp32", torch.bfloat16: "bf16"}
    info = {"variant": variants.get(next(module.parameters()).dtype, "fp32")}
    return LoadedModel(module.eval(), model, task, sizes, vocabulary, classes, None, folder.resolve().name, info, None)
