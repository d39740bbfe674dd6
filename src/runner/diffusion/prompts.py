"""How much of a prompt a model reads. What is over the bound of a text encoder is cut, silently.

CLIP reads 77 tokens, begin and end included. Others read as many as their pipeline asks for (T5:
256 in Stable Diffusion 3 and in FLUX.1 schnell, 512 in dev; some have the number in their code, so
that it stands in `AutoPipeline.tokens`), or as their tokenizer is made for. A family with several
encoders may cut at several places; each is reported, the same cut of two encoders once. Where a
pipeline counts what it puts around a prompt, the prompt has the rest (`prompt_templates`).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from transformers import CLIPTokenizer, CLIPTokenizerFast

from runner.diffusion.pipelines import TextToImage
from runner.diffusion.prompt_templates import tokens_around
from shared.models.auto_pipelines import AUTO_PIPELINES, AutoPipeline
from shared.models.picture_tasks import TASK_PIPELINES
from shared.protocol.messages import DiffusionParams, GenerateParams, Log

# What transformers has where nobody set a tokenizer's bound: a number beyond any prompt.
NO_BOUND = 1_000_000
_FIELDS = ("prompt", "negative_prompt")
_TAG = re.compile(r"<(?:lora|lyco|hypernet):[^<>]{1,256}>", re.IGNORECASE)


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
    return truncations_of(pipeline.pipeline, params, pipeline.text_tokens)


def truncations_of(
    pipeline: Any, params: GenerateParams | DiffusionParams, text_tokens: int | None = None
) -> list[Truncation]:
    """The same of a pipeline of diffusers, whose T5 reads `text_tokens` if that is known."""
    truncations: dict[Truncation, None] = {}
    row = _row_of_the_class(pipeline)
    if row is not None and row.reads_all:
        return []
    bounds = {} if row is None else row.tokens
    for name, part in _readers(pipeline):
        tokenizer = getattr(part, "tokenizer", part)  # of a processor, the one inside it
        bound = bounds.get(name) or _limit(tokenizer, text_tokens)
        for field in _FIELDS:
            text = getattr(params, field)
            limit = bound
            if text and bound is not None:
                limit = max(0, bound - tokens_around(pipeline, part, tokenizer, field))
            cut = _cut(field, text, _reader(tokenizer), tokenizer, limit)
            if cut is not None:
                truncations[cut] = None
    return list(truncations)


def find_tags(params: GenerateParams) -> list[Log]:
    """A line for each prompt with tags of other programs, which name what is to be added.

    Files of ours have them too, in the text that other tools read.
    """
    counts = {name: len(_TAG.findall(getattr(params, name))) for name in _FIELDS}
    return [
        Log(
            level="WARNING",
            code="prompt.no_effect",
            message=f"{name}: tags like <lora:…> are read as words and add nothing ({count} here); "
            "`loras` of the request names LoRAs",
        )
        for name, count in counts.items()
        if count
    ]


def to_log(cut: Truncation) -> Log:
    """A line of the job's log about what is not read."""
    # Without a word of the prompt: the message is in the worker's log too, which outlives the job.
    text = f"{cut.field}: {cut.reader} reads {cut.limit} tokens of {cut.tokens}"
    return Log(
        level="WARNING",
        code="prompt.truncated",
        message=text,
        payload={
            "field": cut.field,
            "reader": cut.reader,
            "tokens": cut.tokens,
            "limit": cut.limit,
            "cut": cut.unread,
        },
    )


def _readers(pipeline: Any) -> Iterator[tuple[str, Any]]:
    """Each tokenizer, or processor with one, with its name in the pipeline."""
    for name, part in sorted(pipeline.components.items()):
        if name.startswith(("tokenizer", "processor", "prior_tokenizer")) and part is not None:
            yield name, part


def _row_of_the_class(pipeline: Any) -> AutoPipeline | None:
    """That of a class that draws from a text; that of a task has the same text encoders."""
    name = type(pipeline).__name__
    from_text = next((own for own, tasks in TASK_PIPELINES.items() if name in tasks.values()), name)
    return AUTO_PIPELINES.get(from_text)


def _reader(tokenizer: Any) -> str:
    """CLIP, T5, Qwen2: the model that a tokenizer's class is named after."""
    name = type(tokenizer).__name__.removesuffix("Fast").removesuffix("Tokenizer")
    return name if name not in ("TokenizersBackend", "PreTrained") else "the text encoder"


def _limit(tokenizer: Any, text_tokens: int | None) -> int | None:
    """The tokens that are read; None where the number is not known."""
    own = int(getattr(tokenizer, "model_max_length", NO_BOUND))
    if not isinstance(tokenizer, CLIPTokenizer | CLIPTokenizerFast):
        own = text_tokens or own
    return own if own < NO_BOUND else None


def _cut(
    field: str, text: str, reader: str, tokenizer: Any, limit: int | None
) -> Truncation | None:
    if limit is None or not text:
        return None
    ids = tokenizer(text, truncation=False)["input_ids"]
    if len(ids) <= limit:
        return None
    # Where the whole has an end mark, the part that is read gets it too, as one of its tokens.
    marks = 1 if ids[-1] in tokenizer.all_special_ids else 0
    unread = tokenizer.decode(ids[limit - marks : len(ids) - marks], skip_special_tokens=True)
    return Truncation(field=field, reader=reader, limit=limit, tokens=len(ids), unread=unread)
