"""Tiny language models with their tokenizers, and autoencoders, that newer pipelines are made of.

Random weights, of transformers' and diffusers' own classes; nothing is downloaded.
"""

from __future__ import annotations

from typing import Any

import diffusers
import transformers
from tests.support.families import LETTERS
from tests.support.tiny_pipeline import byte_letters
from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}"
    "{% else %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 2048,
}


def flow(**config: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**({"shift": 3.0} | config))


def qwen_tokenizer() -> Any:
    """One token for each byte, and those of a chat."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocab = {token: n for n, token in enumerate([*byte_letters(), *special])}
    made = transformers.Qwen2Tokenizer(vocab=vocab, merges=[], chat_template=CHAT)
    made.add_special_tokens({"additional_special_tokens": special[1:]})
    return made


def gemma_tokenizer() -> Any:
    """One token for each letter, and one with which each text begins."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁"]
    vocab = {token: n for n, token in enumerate([*special, *LETTERS])}
    return transformers.GemmaTokenizer(vocab=vocab, merges=[], add_bos_token=True)


def bert_tokenizer() -> Any:
    """One token for each letter, at the beginning of a word another."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab = {
        token: n
        for n, token in enumerate([*special, *LETTERS, *(f"##{letter}" for letter in LETTERS)])
    }
    return transformers.BertTokenizer(vocab=vocab, model_max_length=77)


def qwen3(cls: str = "Qwen3Model", **config: Any) -> Any:
    vocab = len(qwen_tokenizer())
    settings = transformers.Qwen3Config(**(SIZES | {"vocab_size": vocab} | config))
    return getattr(transformers, cls)(settings)


def gemma2(**config: Any) -> Any:
    vocab = len(gemma_tokenizer())
    return transformers.Gemma2Model(
        transformers.Gemma2Config(
            **(SIZES | {"vocab_size": vocab, "query_pre_attn_scalar": 16} | config)
        )
    )


def qwen25_vl() -> Any:
    text = SIZES | {
        "vocab_size": len(qwen_tokenizer()),
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 32,
        "fullatt_block_indexes": [0],
        "window_size": 28,
    }
    return transformers.Qwen2_5_VLForConditionalGeneration(
        transformers.Qwen2_5_VLConfig(
            text_config=text,
            vision_config=vision,
            image_token_id=1,
            video_token_id=2,
            vision_start_token_id=3,
            vision_end_token_id=4,
        )
    )


def qwen3_vl_config(**config: Any) -> Any:
    text = (
        SIZES
        | {
            "vocab_size": len(qwen_tokenizer()),
            "rope_scaling": {
                "rope_type": "default",
                "mrope_section": [3, 3, 2],
                "mrope_interleaved": True,
            },
        }
        | config
    )
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 32,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    }
    return transformers.Qwen3VLConfig(text_config=text, vision_config=vision)


def t5_gemma() -> Any:
    size = SIZES | {"vocab_size": len(gemma_tokenizer()), "query_pre_attn_scalar": 16}
    config = transformers.T5GemmaConfig(
        encoder=size,
        decoder=size | {"cross_attention_hidden_size": 32},
        is_encoder_decoder=False,
        vocab_size=size["vocab_size"],
    )
    text = T5GemmaEncoder(config.encoder)
    text.config = config  # as it is published: diffusers takes the encoder's from the whole
    return text


def qwen_vae() -> Any:
    """Made for films, of which a picture is one frame; its means and deviations are numbers."""
    return diffusers.AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )


def flux2_vae() -> Any:
    return diffusers.AutoencoderKLFlux2(
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
    )


def movq() -> Any:
    return diffusers.VQModel(
        block_out_channels=(32, 32, 32, 32),
        norm_num_groups=32,
        norm_type="spatial",
        num_vq_embeddings=12,
        latent_channels=4,
        vq_embed_dim=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
