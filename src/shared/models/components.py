"""The parts of a pipeline: which it needs, and of which classes they may be.

diffusers imports the class that an index names and calls its loader. A class that loads files of
its own choice (a pipeline, an `Auto…`) would leave the folder that was checked, so an index may
name the classes below and no other. A test compares both tables with the libraries.
"""

from collections.abc import Collection

# Loads weights by an index of safetensors and nothing else.
_MODELS = frozenset(
    """
    AsymmetricAutoencoderKL AuraFlowTransformer2DModel AutoencoderDC AutoencoderKL
    AutoencoderKLFlux2 AutoencoderKLQwenImage AutoencoderKLQwenImage21 AutoencoderTiny
    ChromaTransformer2DModel CogView3PlusTransformer2DModel CogView4Transformer2DModel
    ConsistencyDecoderVAE Flux2Transformer2DModel FluxTransformer2DModel
    GlmImageTransformer2DModel HunyuanDiT2DModel Ideogram4Transformer2DModel Kandinsky3UNet
    Krea2Transformer2DModel Lumina2Transformer2DModel LuminaNextDiT2DModel
    NucleusMoEImageTransformer2DModel OvisImageTransformer2DModel PRXTransformer2DModel
    PixArtTransformer2DModel PriorTransformer QwenImage21Transformer2DModel
    QwenImageTransformer2DModel SD3Transformer2DModel SanaTransformer2DModel StableCascadeUNet
    UNet2DConditionModel VQModel ZImageTransformer2DModel
    """.split()
)
_SCHEDULERS = frozenset(
    """
    CogVideoXDDIMScheduler CogVideoXDPMScheduler DDIMScheduler DDPMScheduler
    DDPMWuerstchenScheduler DEISMultistepScheduler DPMSolverMultistepScheduler
    DPMSolverSinglestepScheduler EDMDPMSolverMultistepScheduler EDMEulerScheduler
    EulerAncestralDiscreteScheduler EulerDiscreteScheduler FlowMatchEulerDiscreteScheduler
    FlowMatchHeunDiscreteScheduler FlowMatchLCMScheduler HeunDiscreteScheduler IPNDMScheduler
    KDPM2AncestralDiscreteScheduler KDPM2DiscreteScheduler LCMScheduler PNDMScheduler
    SASolverScheduler SCMScheduler TCDScheduler UnCLIPScheduler UniPCMultistepScheduler
    """.split()
)
_ENCODERS = frozenset(
    """
    BertModel CLIPTextModel CLIPTextModelWithProjection CLIPVisionModelWithProjection
    Gemma2ForCausalLM Gemma2Model GemmaForCausalLM GemmaModel GlmImageForConditionalGeneration
    GlmModel Mistral3ForConditionalGeneration Qwen2_5_VLForConditionalGeneration
    Qwen3ForCausalLM Qwen3Model Qwen3VLForConditionalGeneration Qwen3VLModel Siglip2VisionModel
    SiglipVisionModel T5EncoderModel T5GemmaEncoder UMT5EncoderModel
    """.split()
)
_TOKENIZERS = frozenset(
    """
    BertTokenizer BertTokenizerFast ByT5Tokenizer CLIPTokenizer CLIPTokenizerFast GemmaTokenizer
    GemmaTokenizerFast LlamaTokenizer LlamaTokenizerFast PixtralProcessor PreTrainedTokenizerFast
    Qwen2Tokenizer Qwen2TokenizerFast T5Tokenizer T5TokenizerFast TokenizersBackend
    XLMRobertaTokenizer XLMRobertaTokenizerFast
    """.split()
)
# `CLIPFeatureExtractor` is what indexes of some years ago call `CLIPImageProcessor`; the checker
# that it belongs to is left out of a pipeline that cannot load it.
_PROCESSORS = frozenset(
    """
    CLIPFeatureExtractor CLIPImageProcessor CLIPImageProcessorFast CLIPImageProcessorPil
    GlmImageProcessor Qwen2VLProcessor Qwen3VLProcessor Siglip2ImageProcessor
    Siglip2ImageProcessorFast Siglip2ImageProcessorPil SiglipImageProcessor
    SiglipImageProcessorFast SiglipImageProcessorPil
    """.split()
)
CLASSES: dict[str, frozenset[str]] = {
    "diffusers": _MODELS | _SCHEDULERS,
    "transformers": _ENCODERS | _TOKENIZERS | _PROCESSORS,
    "stable_diffusion": frozenset({"StableDiffusionSafetyChecker"}),
}


def is_allowed(component: str, library: str, name: str) -> bool:
    """Whether a part may be of this class: a known one, and of the sort that its name says."""
    if name not in CLASSES.get(library, ()):
        return False
    for word, classes in (("scheduler", _SCHEDULERS), ("tokenizer", _TOKENIZERS)):
        if component.endswith((word, f"{word}_2", f"{word}_3")):
            return name in classes
    return name not in _SCHEDULERS | _TOKENIZERS


def has_weights(library: str, name: str) -> bool:
    """Whether a part of this class is a network, and so has weights."""
    return library == "stable_diffusion" or name in _MODELS | _ENCODERS


# What each pipeline cannot be loaded without, by the class that the index names. diffusers lets PRX
# go without its autoencoder, but then it makes no picture.
_NEEDS = {
    "unet vae text_encoder tokenizer scheduler": """
        LatentConsistencyModelPipeline StableDiffusionLatentUpscalePipeline
        StableDiffusionPAGPipeline StableDiffusionPipeline
    """,
    "unet vae scheduler": "StableDiffusionXLPAGPipeline StableDiffusionXLPipeline",
    "unet vae text_encoder tokenizer scheduler low_res_scheduler": """
        StableDiffusionUpscalePipeline
    """,
    "unet scheduler": "IFPipeline",
    "unet movq text_encoder tokenizer scheduler": "Kandinsky3Pipeline",
    "transformer vae text_encoder tokenizer scheduler": """
        AuraFlowPipeline ChromaPipeline CogView3PlusPipeline CogView4Pipeline Flux2KleinPipeline
        Flux2Pipeline Krea2Pipeline Lumina2Pipeline LuminaPipeline OvisImagePipeline
        PRXPipeline QwenImagePipeline SanaPAGPipeline SanaPipeline ZImagePipeline
    """,
    "transformer vae text_encoder text_encoder_2 tokenizer tokenizer_2 scheduler": """
        FluxKontextPipeline FluxPipeline
    """,
    """transformer vae text_encoder text_encoder_2 text_encoder_3 tokenizer tokenizer_2 tokenizer_3
    scheduler""": "StableDiffusion3PAGPipeline StableDiffusion3Pipeline",
    "transformer vae scheduler": """
        HunyuanDiTPAGPipeline HunyuanDiTPipeline PixArtAlphaPipeline PixArtSigmaPAGPipeline
        PixArtSigmaPipeline
    """,
    "transformer vae text_encoder processor scheduler": """
        NucleusMoEImagePipeline QwenImage21Pipeline
    """,
    "transformer vae text_encoder processor scheduler vision_language_encoder tokenizer": """
        GlmImagePipeline
    """,
    "transformer vae text_encoder tokenizer processor scheduler": """
        QwenImageEditPipeline QwenImageEditPlusPipeline
    """,
    "transformer unconditional_transformer vae text_encoder tokenizer scheduler": """
        Ideogram4Pipeline
    """,
    "transformer vae text_encoder tokenizer scheduler siglip siglip_processor": """
        ZImageOmniPipeline
    """,
    """unet movq scheduler prior_prior prior_image_encoder prior_image_processor prior_scheduler
    prior_text_encoder prior_tokenizer""": "KandinskyV22CombinedPipeline",
    """unet movq text_encoder tokenizer scheduler prior_prior prior_image_encoder
    prior_image_processor prior_scheduler prior_text_encoder prior_tokenizer""": """
        KandinskyCombinedPipeline
    """,
    """decoder vqgan text_encoder tokenizer scheduler prior_prior prior_scheduler
    prior_text_encoder prior_tokenizer""": """
        StableCascadeCombinedPipeline WuerstchenCombinedPipeline
    """,
}
NEEDED: dict[str, frozenset[str]] = {
    pipeline: frozenset(parts.split())
    for parts, pipelines in _NEEDS.items()
    for pipeline in pipelines.split()
}
# These also load the models that the card in their README.md names, from wherever they are.
READ_THEIR_CARD = frozenset(
    """
    KandinskyCombinedPipeline KandinskyV22CombinedPipeline StableCascadeCombinedPipeline
    WuerstchenCombinedPipeline
    """.split()
)


def missing_parts(pipeline: str, present: Collection[str]) -> list[str]:
    """What a pipeline of this class needs and an index does not name; none of an unknown class."""
    return sorted(NEEDED.get(pipeline, frozenset()) - set(present))
