"""Add a step's LoRAs to its model. A template never does: the change stays in the runner's copy."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from runner.diffusion.loras import LoraFile, add_loras
from runner.diffusion.model_folder import guard_unchanged
from runner.images.metadata import LoraFacts
from shared.errors import ModelUnavailable
from shared.models.descriptor import LoraDescriptor
from shared.models.verify import check_installed
from shared.protocol.messages import GenerateSpec, LoraParams


def add_step_loras(pipeline: Any, spec: GenerateSpec, check: Callable[[], None]) -> list[LoraFacts]:
    """Change the weights of `pipeline` by the step's LoRAs; return what metadata says of them.

    `check` may raise to stop. Raises `ModelUnavailable` for a LoRA that is not as promised, or does
    not fit the model.
    """
    facts, files = [], []
    with ExitStack() as guards:
        for lora, folder in zip(spec.params.loras, map(Path, spec.lora_folders), strict=True):
            guards.enter_context(guard_unchanged(folder))
            facts.append(LoraFacts(params=lora, data_sha256=_checked(lora, folder).data_sha256))
            label = f"{lora.name}@{lora.version}"
            files.append(LoraFile(label=label, folder=folder, scale=lora.scale))
        add_loras(pipeline, files, check)
    return facts


def _checked(lora: LoraParams, folder: Path) -> LoraDescriptor:
    try:
        descriptor = check_installed(folder, checkpoint_sha256=lora.checkpoint_sha256)
    except ModelUnavailable as error:
        raise ModelUnavailable(
            f"LoRA {lora.name}@{lora.version}: {error.message}", **error.details
        ) from error
    if not isinstance(descriptor, LoraDescriptor):
        raise ModelUnavailable(f"{lora.name}@{lora.version} is no LoRA")
    return descriptor
