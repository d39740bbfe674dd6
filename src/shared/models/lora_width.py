"""The width by which LoRAs of a family fit a model or do not, from the model's configuration."""

from pathlib import Path
from typing import Any

from shared.models.json_files import read_json


def lora_width(config: Path) -> int | None:
    """The width of the text that a U-Net attends to, or of a transformer's stream; None: the
    folder with this configuration does not say it as one number."""
    if (u_net := _read(config, "unet/config.json")) is not None:
        return _positive(u_net.get("cross_attention_dim"))
    transformer = _read(config, "transformer/config.json") or {}
    heads = _positive(transformer.get("num_attention_heads"))
    of_a_head = _positive(transformer.get("attention_head_dim"))
    return heads * of_a_head if heads and of_a_head else None


def _read(config: Path, name: str) -> dict[str, Any] | None:
    return read_json(config, name) if (config / name).is_file() else None


def _positive(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None
