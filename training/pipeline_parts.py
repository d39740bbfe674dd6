"""The stock diffusers and transformers parts that the model is made of, untrained."""

import json
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer
from training.autoencoder import LATENT_CHANNELS
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

LATENT_SIZE = 8
MAX_TOKENS = 16
VOCABULARY_SIZE = 4096
TEXT_WIDTH = 128
_START, _END = "<|startoftext|>", "<|endoftext|>"
# CLIP's own pattern: contractions, words, single digits, punctuation.
_WORDS = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


def train_tokenizer(captions: list[str], folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer over the captions' words; writes vocab.json and merges.txt to `folder`."""
    learner = Tokenizer(BPE(end_of_word_suffix="</w>"))
    learner.normalizer = Lowercase()
    learner.pre_tokenizer = Sequence(
        [
            Split(Regex(_WORDS), "removed", invert=True),
            ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    letters = sorted(ByteLevel.alphabet())
    learner.train_from_iterator(
        captions,
        BpeTrainer(
            vocab_size=VOCABULARY_SIZE - 2,
            end_of_word_suffix="</w>",
            initial_alphabet=letters,
            special_tokens=letters + [letter + "</w>" for letter in letters],
            show_progress=False,
        ),
    )
    learner.add_special_tokens([_START, _END])
    model = json.loads(learner.to_str())["model"]
    vocabulary = model["vocab"] | {_START: len(model["vocab"]), _END: len(model["vocab"]) + 1}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    merges = [" ".join(pair) for pair in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    return load_tokenizer(folder)


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer that `train_tokenizer` wrote."""
    return CLIPTokenizer(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        bos_token=_START,
        eos_token=_END,
        pad_token=_END,
        unk_token=_END,
        model_max_length=MAX_TOKENS,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two layers of 128: it only has to tell a few thousand words apart."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_unet() -> UNet2DConditionModel:
    """3.9 M weights; two thirds of the work is at 4x4, where a weight is used 16 times a sample.

    `addition_embed_type="text"` pools the caption into the time embedding, `scale_shift` lets that
    embedding scale channels as well as shift them: it is the main road from words to picture.
    """
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=(64, 128),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("UpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        resnet_time_scale_shift="scale_shift",
        time_embedding_dim=512,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )


def build_scheduler() -> DDIMScheduler:
    """v-prediction with a last step of pure noise, sampled from that step on ("trailing")."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # not used with "trailing", but the pipeline warns of anything else
    )


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Token ids (N, MAX_TOKENS), padded and cut as the pipeline does it."""
    ids: torch.Tensor = tokenizer(
        captions,
        padding="max_length",
        max_length=MAX_TOKENS,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return ids
