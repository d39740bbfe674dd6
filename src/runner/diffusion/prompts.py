"""How much of a prompt a model reads. What is over the bound of a text encoder is cut, silently.

CLIP reads 77 tokens, begin and end included. T5 reads as many as its pipeline asks for
(256 in Stable Diffusion 3 and in FLUX.1 schnell, 512 in dev). A family with several encoders may
cut at several places; each is reported, the same cut of two encoders once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from transformers import CLIPTokenizer, CLIPTokenizerFast, T5Tokenizer, T5TokenizerFast

from runner.diffusion.pipelines import TextToImage
from shared.protocol.messages import GenerateParams

READERS = {
    "CLIP": (CLIPTokenizer, CLIPTokenizerFast),
    "T5": (T5Tokenizer, T5TokenizerFast),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Truncation:
    """What one text encoder does not read. `limit` and `tokens` count begin and end marks."""

    field: str  # prompt or negative_prompt
    reader: str
    limit: int
    tokens: int
    unread: str


def find_truncations(pipeline: TextToImage, params: GenerateParams) -> list[Truncation]:
    """Every cut that this model makes in the prompts, in the order of its encoders."""
    truncations: dict[Truncation, None] = {}
    for reader, tokenizer in _tokenizers(pipeline):
        limit = _limit(reader, tokenizer, pipeline)
        for field in ("prompt", "negative_prompt"):
            cut = _cut(field, getattr(params, field), reader, tokenizer, limit)
            if cut is not None:
                truncations[cut] = None
    return list(truncations)


def _tokenizers(pipeline: TextToImage) -> Iterator[tuple[str, Any]]:
    for name, part in sorted(pipeline.pipeline.components.items()):
        if name.startswith("tokenizer"):
            for reader, classes in READERS.items():
                if isinstance(part, classes):
                    yield reader, part


def _limit(reader: str, tokenizer: Any, pipeline: TextToImage) -> int | None:
    """The tokens that are read; None where the number is not known."""
    if reader == "CLIP":
        return int(tokenizer.model_max_length)
    return pipeline.text_tokens


def _cut(
    field: str, text: str, reader: str, tokenizer: Any, limit: int | None
) -> Truncation | None:
    if limit is None or not text:
        return None
    ids = tokenizer(text, truncation=False)["input_ids"]
    if len(ids) <= limit:
        return None
    # The part that is read ends with the end mark of the whole, which takes one token of the limit.
    unread = tokenizer.decode(ids[limit - 1 : -1], skip_special_tokens=True)
    return Truncation(field=field, reader=reader, limit=limit, tokens=len(ids), unread=unread)
