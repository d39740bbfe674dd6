"""What some pipelines put around a prompt, of which the tokens count in their bound.

A language model reads a prompt as a turn of a chat, or behind an instruction. A pipeline that cuts
the whole at its bound leaves fewer tokens to the prompt. Others count only the prompt, and are not
listed here (Qwen-Image, Ovis).
"""

from typing import Any

# Stands for a prompt where a template is filled in; no template has it.
_PROMPT = "\u2063"


def tokens_around(pipeline: Any, part: Any, tokenizer: Any, field: str) -> int:
    """How many tokens of what is read are not those of `field`, a prompt or a negative one.

    `part` is the tokenizer or processor of the pipeline, `tokenizer` the one that it works with.
    """
    name = type(pipeline).__name__
    if hasattr(pipeline, "_format_prompt"):  # Nucleus
        return _tokens(tokenizer, pipeline._format_prompt(_PROMPT).partition(_PROMPT)[0])
    if name.startswith(("ZImage", "Flux2")):
        return _tokens(tokenizer, _chat(pipeline, part))
    if name.startswith("Lumina2") and field == "prompt":
        return _tokens(tokenizer, f"{pipeline.system_prompt} <Prompt Start> ")
    if name.startswith("Sana") and field == "prompt":  # it counts the mark at its start twice
        return 1
    if name.startswith("Krea2"):  # it keeps room for what comes behind
        return int(pipeline.prompt_template_encode_num_suffix_tokens)
    return 0


def _chat(pipeline: Any, part: Any) -> str:
    """The chat up to the prompt. What comes behind the prompt is cut first, and is no loss."""
    system = getattr(pipeline, "system_message", None)
    said: list[tuple[str, str]] = [("user", _PROMPT)]
    if system is not None:
        said.insert(0, ("system", system))
    messages = [
        {"role": role, "content": text if system is None else [{"type": "text", "text": text}]}
        for role, text in said
    ]
    filled: str = part.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return filled.partition(_PROMPT)[0]


def _tokens(tokenizer: Any, text: str) -> int:
    """The tokens of a text without the marks that every text gets."""
    return len(tokenizer(text)["input_ids"]) - len(tokenizer("")["input_ids"])
