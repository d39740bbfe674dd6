"""Whether a model's tensors fit its configuration, and its parts could draw; no weight is read.

The headers of the files give names, shapes and dtypes. The models that the configuration describes
are built without any storage (torch's device `meta`), and compared. Of a checkpoint in one file and
of a packed transformer the names may be others: diffusers' own converters run on tensors without
storage. So a step would find what is found here, and it takes no memory. Schedulers, tokenizers and
processors are loaded. Of a model that would load, what a step would stumble on is looked for:
values of its configurations (`fit_values`), parts that do not fit one another (`fit_parts`), a
scheduler that cannot sample (`fit_schedulers`).

diffusers has no way to ask for this alone. What is replaced while a single file is compared: the
function that moves weights into a model, and the one that moves the model to a device.
"""

import inspect
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import diffusers
import torch
import transformers
from accelerate import init_empty_weights  # type: ignore[import-untyped]
from diffusers import pipelines
from diffusers.loaders import single_file, single_file_model, single_file_utils
from safetensors import safe_open

from runner.diffusion import fit_parts, fit_schedulers, fit_values
from shared.models.families import FAMILIES, kind_of_pipeline
from shared.models.folder import CONFIG, INDEX, OPTIONAL, PACKED, layout_of, list_files
from shared.models.gguf_header import PLAIN, read_gguf
from shared.models.weights import loaded_weights

MOST = 5  # misfits that are named
MOST_CHARACTERS = 200  # of each: names come from the file

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
# What old files have, and no model needs.
_HARMLESS = re.compile(r"(?:.*\.)?(?:position_ids|logit_scale|text_projection(?:\.weight)?)")

# The dtype that stands for packed numbers, of tensors without storage; no file here has it.
PACKED_MARK = torch.complex64
# Of a file's names, this many must be found in the model before others count as missing.
_MOSTLY = 0.9

Tensors = dict[str, torch.Tensor]


class Unchecked(Exception):
    """This file cannot be compared without its weights; the message says why."""


def misfits(folder: Path) -> list[str]:
    """What a step could not load of a pipeline's folder, the first few; empty: it fits.

    Raises `Unchecked`.
    """
    files = list_files(folder)
    found: list[str] = []
    loaded: dict[str, Any] = {}
    single_file = layout_of(files) == "single_file"
    base = folder / CONFIG if single_file else folder
    _import_pipeline(base)
    tensors = _without_storage(folder.glob("*.safetensors")) if single_file else {}
    parts = list(_parts(base))
    for part in parts:
        with _collecting(part.name, found):
            if not part.is_model:
                loaded[part.name] = part.load()
            elif single_file and not part.has_weights:
                _convert(tensors, part, found)
            elif part.is_packed:
                _compare_packed(_packed_without_storage(folder, part), part, found)
            else:
                found += _load_from_folder(part)
    if not found:
        with warnings.catch_warnings():  # of what libraries will change one day
            warnings.simplefilter("ignore")
            _collect_what_cannot_draw(base, parts, loaded, found)
    return [each[:MOST_CHARACTERS] for each in found[:MOST]]


def _import_pipeline(folder: Path) -> None:
    """PRX adds the class of its text encoder to transformers when it is imported."""
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    getattr(diffusers, str(index["_class_name"]), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """A part that the index in `folder` names; `weights` are the files that are loaded."""

    folder: Path
    name: str
    library: str
    class_name: str
    weights: tuple[str, ...]

    @property
    def type(self) -> Any:
        return getattr({"diffusers": diffusers, "transformers": transformers}[self.library],
                       self.class_name)  # fmt: skip

    @property
    def is_model(self) -> bool:
        return issubclass(self.type, torch.nn.Module)

    @property
    def has_weights(self) -> bool:
        return bool(self.weights)

    @property
    def is_packed(self) -> bool:
        return any(map(PACKED.fullmatch, self.weights))

    def load(self, kind: Any = None) -> Any:
        """This part without weights, or another class made of its folder."""
        return (kind or self.type).from_pretrained(
            str(self.folder), subfolder=self.name, local_files_only=True
        )

    def config(self) -> Mapping[str, Any]:
        """Of a model: what its configuration says, over the defaults of its class."""
        if self.library == "transformers":
            return dict(self.load(self.type.config_class).to_dict())
        defaults = {
            name: parameter.default
            for name, parameter in inspect.signature(self.type.__init__).parameters.items()
            if parameter.default is not inspect.Parameter.empty
        }
        own = self.type.load_config(str(self.folder), subfolder=self.name, local_files_only=True)
        return {**defaults, **own}


def _parts(folder: Path) -> Iterator[_Part]:
    """In diffusers' order: its converters take from one file what they use."""
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    files = list_files(folder)
    loaded = list(loaded_weights(files))
    for name, entry in sorted(index.items()):
        if not isinstance(entry, list) or name in OPTIONAL or len(entry) != 2:
            continue
        library, class_name = entry
        if library in ("diffusers", "transformers"):
            weights = tuple(file for file in loaded if file.startswith(f"{name}/"))
            yield _Part(
                folder=folder, name=name, library=library, class_name=class_name, weights=weights
            )


def _without_storage(files: Iterable[Path]) -> Tensors:
    tensors = {}
    for path in files:
        with safe_open(str(path), framework="np") as file:
            for name in file.keys():
                entry = file.get_slice(name)
                dtype = DTYPES.get(entry.get_dtype())
                if dtype is None:
                    raise Unchecked(f"{name[:80]} has the dtype {entry.get_dtype()}")
                tensors[name] = torch.empty(entry.get_shape(), dtype=dtype, device="meta")
    return tensors


def _packed_without_storage(folder: Path, part: _Part) -> Tensors:
    (name,) = part.weights
    return {
        tensor: torch.empty(
            entry.shape,
            dtype=torch.float32 if entry.packing.name in PLAIN else PACKED_MARK,
            device="meta",
        )
        for tensor, entry in read_gguf(folder, name).items()
    }


@contextmanager
def _collecting(part: str, found: list[str]) -> Iterator[None]:
    """Inside, what goes wrong is a misfit of this part."""
    try:
        yield
    except Unchecked:
        raise
    except KeyError as error:  # a converter asks for a name that is not there
        found.append(f"{part}: {error.args[0]} is missing")
    except Exception as error:  # whatever a library stumbles on, a step would too
        if isinstance(error, NotImplementedError) and "meta" in str(error):
            raise Unchecked(f"{part}: {error}") from error  # our way, not the model's fault
        found.append(f"{part}: {type(error).__name__}: {error}")


# A part with its own folder -----------------------------------------------------------------------


def _load_from_folder(part: _Part) -> list[str]:
    tensors = _without_storage(part.folder / name for name in part.weights)
    return [f"{part.name}: {each}" for each in _differences(*_build(part, tensors), more=False)]


def _build(part: _Part, tensors: Tensors) -> tuple[Any, Tensors]:
    """The model that its configuration describes, and its tensors by the model's names."""
    if part.library == "diffusers":
        settings = part.type.load_config(
            str(part.folder), subfolder=part.name, local_files_only=True
        )
        with init_empty_weights():
            model = part.type.from_config(settings)
        model._fix_state_dict_keys_on_load(tensors)  # of layers that had other names once
        return model, tensors
    settings = part.load(part.type.config_class)
    if part.class_name == "T5GemmaEncoder":  # its folder describes the decoder too
        settings = settings.encoder
    with init_empty_weights():
        model = part.type(settings)
    return model, _renamed(model, tensors)


def _renamed(model: torch.nn.Module, tensors: Tensors) -> Tensors:
    """By the model's names, which may have other words in front than the file's.

    transformers knows more ways to rename. Where most names are not found so, the model's own
    tensors are returned: there is nothing to compare.
    """
    wanted = dict(model.named_parameters())
    by_end = {name.partition(".")[2]: name for name in wanted}
    renamed = {}
    for name, tensor in tensors.items():
        short = name.partition(".")[2]
        ours = next((each for each in (name, short) if each in wanted), by_end.get(name, name))
        renamed[ours] = tensor
    if len(wanted.keys() & renamed.keys()) < _MOSTLY * len(renamed):
        return {name: tensor.to("meta") for name, tensor in wanted.items()}
    return renamed


def _compare_packed(tensors: Tensors, part: _Part, found: list[str]) -> None:
    """By the model's names where the file has them, else as diffusers converts it."""
    model, _ = _build(part, {})
    if len(model.state_dict().keys() & tensors.keys()) < _MOSTLY * len(tensors):
        _convert(tensors, part, found)
    else:
        found.extend(f"{part.name}: {each}" for each in _differences(model, tensors))


# A part in the one file ---------------------------------------------------------------------------


def _convert(tensors: Tensors, part: _Part, found: list[str]) -> None:
    """Have diffusers load it; what it would move into the model is compared with the model."""

    def compare(model: torch.nn.Module, weights: Tensors, **_options: Any) -> tuple[None, None]:
        found.extend(f"{part.name}: {each}" for each in _differences(model, weights))
        return None, None

    def stay(model: torch.nn.Module, **_options: Any) -> torch.nn.Module:
        return model

    with (
        patch.object(single_file_model, "load_model_dict_into_meta", compare),
        patch.object(single_file_utils, "load_model_dict_into_meta", compare),
        patch.object(single_file_model, "dispatch_model", stay),
    ):
        single_file.load_single_file_sub_model(
            library_name=part.library,
            class_name=part.class_name,
            name=part.name,
            checkpoint=tensors,
            pipelines=pipelines,
            is_pipeline_module=False,
            cached_model_config_path=str(part.folder),
            local_files_only=True,
            torch_dtype=torch.float32,
        )


# Comparing ----------------------------------------------------------------------------------------


def _differences(model: torch.nn.Module, weights: Tensors, *, more: bool = True) -> Iterator[str]:
    """`more`: tensors that the model has no place for are a difference too."""
    wanted = model.state_dict()
    for name, tensor in weights.items():
        if name not in wanted:
            if more and not _is_left_out(model, name):
                yield f"{name} has no place in its configuration"
        elif tensor.shape != wanted[name].shape:
            yield f"{name} is {list(tensor.shape)} and should be {list(wanted[name].shape)}"
        elif tensor.dtype == PACKED_MARK:
            if not _is_unpacked(model, name):
                yield f"{name} is packed, and what it belongs to is no layer that unpacks"
        elif wanted[name].is_floating_point() and not tensor.is_floating_point():
            yield f"{name} is of {tensor.dtype}, which holds no weights"
    for name, _ in model.named_parameters():  # what is shared comes once
        if name not in weights and not _is_made_elsewhere(model, name):
            yield f"{name} is missing"


def _is_unpacked(model: torch.nn.Module, name: str) -> bool:
    layer, _, parameter = name.rpartition(".")
    return parameter == "weight" and isinstance(model.get_submodule(layer), torch.nn.Linear)


def _is_left_out(model: Any, name: str) -> bool:
    patterns = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    return bool(_HARMLESS.fullmatch(name)) or any(re.search(each, name) for each in patterns)


def _is_made_elsewhere(model: Any, name: str) -> bool:
    """Whether a weight is another one of the same model, or need not be in a file."""
    tied = getattr(model, "_tied_weights_keys", None) or ()
    patterns = getattr(model, "_keys_to_ignore_on_load_missing", None) or ()
    return name in tied or any(re.search(each, name) for each in patterns)


# What loads, and cannot draw ----------------------------------------------------------------------

_AUTOENCODERS = ("vae", "movq")
_NOISES_A_PICTURE = "low_res_scheduler"


def _collect_what_cannot_draw(
    base: Path, parts: list[_Part], loaded: Mapping[str, Any], found: list[str]
) -> None:
    index = json.loads((base / INDEX).read_text(encoding="utf-8"))
    pipeline = str(index["_class_name"])
    steps = FAMILIES[kind_of_pipeline(pipeline)].steps
    models = {part.name: part for part in parts if part.is_model}
    configs = {name: part.config() for name, part in models.items()}
    for name, part in models.items():
        with _collecting(name, found):
            found += _named(name, _misfits_of_model(part, configs[name], pipeline))
    for name, other in loaded.items():
        with _collecting(name, found):
            if name == _NOISES_A_PICTURE:
                found += _named(name, fit_schedulers.misfits_of_noise(other))
            elif hasattr(other, "set_timesteps"):
                found += _named(name, fit_parts.misfits_of_calls(pipeline, other))
                found += _named(name, fit_schedulers.misfits_of_scheduler(other, steps))
            elif (encoder := name.replace("tokenizer", "text_encoder")) in models:
                kind = models[encoder].class_name
                wrong = fit_values.misfits_of_tokenizer(other, configs[encoder], kind)
                found += _named(name, wrong)
    if not found:
        found += fit_parts.misfits_of_links(pipeline, configs)


def _misfits_of_model(part: _Part, config: Mapping[str, Any], pipeline: str) -> Iterator[str]:
    if part.library == "transformers":
        yield from fit_values.misfits_of_epsilons(config)
        return
    yield from fit_values.misfits_of_values(part.type, config)
    if part.name in _AUTOENCODERS:
        shifts = pipeline in fit_parts.ADD_SHIFT
        yield from fit_values.misfits_of_autoencoder(config, shifts=shifts)
    if part.class_name == "AutoencoderKL":
        yield from fit_values.misfits_of_decoder(part.type, config)


def _named(part: str, misfits: Iterable[str]) -> Iterator[str]:
    return (f"{part}: {each}" for each in misfits)
