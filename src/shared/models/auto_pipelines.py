"""What `auto` can load, by the class that a folder's index names: what diffusers calls pipelines
from text to image, and those that edit pictures and draw nothing without one.

The API and the command line cannot ask diffusers, which comes with torch; so here is what they need
to know before a job exists. Left out of diffusers' own list are those that need more than a text
(ControlNets) or make no still picture. A test compares this with diffusers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoPipeline:
    """One class of diffusers. Sides are pixels.

    A side is a multiple of `multiple`, and of what the autoencoder shrinks times `packed`: latents
    that a transformer takes together along one side. `packed` None: as its configuration says.
    """

    packed: int | None = 1
    multiple: int = 8
    native_side: int = 1024  # where the configuration names none
    from_text: bool = True  # False: it edits pictures, and draws nothing without one
    reads_all: bool = False  # of a prompt, however long, whatever its call says
    in_pixels: bool = False  # without an autoencoder: what is sampled is the picture
    # False: guidance is distilled into the model, or it is no diffusion model.
    negative_prompt: bool = True
    # A negative prompt has no effect with this guidance, and with less.
    no_guidance: float = 1.0
    # The pipeline refuses less, though with less it would draw the same.
    least_guidance: float = 0.0
    # How many tokens are read of a prompt, by tokenizer, where the number stands in the code of the
    # class alone: neither a parameter of its call nor the tokenizer says it.
    tokens: Mapping[str, int] = field(default_factory=dict)


_QWEN_EDIT = AutoPipeline(packed=2, from_text=False, reads_all=True)
_U_NET = AutoPipeline(native_side=512)
_PACKED = AutoPipeline(packed=2)
_PATCHED = AutoPipeline(packed=None)
_HUNYUAN = AutoPipeline(multiple=16, tokens={"tokenizer": 77, "tokenizer_2": 256})
_KANDINSKY = AutoPipeline(multiple=64, native_side=512)
_SANA = AutoPipeline(multiple=32)
# Its latents are a 42.67th and then a 10.67th of a quarter; at these sides no rounding changes one.
_CASCADE = AutoPipeline(multiple=128)
_Z_IMAGE = AutoPipeline(packed=2, no_guidance=0.0)
_PACKED_DISTILLED = AutoPipeline(packed=2, negative_prompt=False)

AUTO_PIPELINES: dict[str, AutoPipeline] = {
    "AuraFlowPipeline": _PACKED,
    "ChromaPipeline": _PACKED,
    "CogView3PlusPipeline": _PATCHED,
    "CogView4Pipeline": AutoPipeline(multiple=16),
    "Flux2KleinPipeline": _PACKED_DISTILLED,
    "Flux2Pipeline": _PACKED_DISTILLED,
    "FluxKontextPipeline": _PACKED,
    "FluxPipeline": _PACKED,
    "GlmImagePipeline": AutoPipeline(packed=4, negative_prompt=False),
    "HunyuanDiTPAGPipeline": _HUNYUAN,
    "HunyuanDiTPipeline": _HUNYUAN,
    "IFPipeline": AutoPipeline(native_side=64, in_pixels=True, tokens={"tokenizer": 77}),
    "Ideogram4Pipeline": AutoPipeline(packed=2, native_side=2048, negative_prompt=False),
    "Kandinsky3Pipeline": AutoPipeline(multiple=64, tokens={"tokenizer": 128}),
    "KandinskyCombinedPipeline": AutoPipeline(
        multiple=64, native_side=512, tokens={"tokenizer": 77}
    ),
    "KandinskyV22CombinedPipeline": _KANDINSKY,
    "Krea2Pipeline": AutoPipeline(packed=2, no_guidance=0.0),
    "LatentConsistencyModelPipeline": AutoPipeline(native_side=512, negative_prompt=False),
    "Lumina2Pipeline": AutoPipeline(packed=2, multiple=16),
    "LuminaPipeline": AutoPipeline(packed=2, multiple=16),
    "NucleusMoEImagePipeline": AutoPipeline(packed=2, tokens={"processor": 1024}),
    "OvisImagePipeline": _PACKED,
    "PRXPipeline": AutoPipeline(packed=None, native_side=512, least_guidance=1.0),
    "PixArtAlphaPipeline": _PATCHED,
    "PixArtSigmaPAGPipeline": _PATCHED,
    "PixArtSigmaPipeline": _PATCHED,
    "QwenImage21Pipeline": AutoPipeline(multiple=32),
    "QwenImageEditPipeline": _QWEN_EDIT,
    "QwenImageEditPlusPipeline": _QWEN_EDIT,
    "QwenImagePipeline": _PACKED,
    "SanaPAGPipeline": _SANA,
    "SanaPipeline": _SANA,
    "StableCascadeCombinedPipeline": _CASCADE,
    "StableDiffusion3PAGPipeline": _PATCHED,
    "StableDiffusion3Pipeline": _PATCHED,
    "StableDiffusionPAGPipeline": _U_NET,
    "StableDiffusionPipeline": _U_NET,
    "StableDiffusionXLPAGPipeline": AutoPipeline(),
    "StableDiffusionXLPipeline": AutoPipeline(),
    "WuerstchenCombinedPipeline": _CASCADE,
    "ZImageOmniPipeline": _Z_IMAGE,
    "ZImagePipeline": _Z_IMAGE,
}
