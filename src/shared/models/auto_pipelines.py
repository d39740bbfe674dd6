"""What `AutoPipelineForText2Image` can load, by the class that a folder's index names.

The API and the command line cannot ask diffusers, which comes with torch; so here is what they need
to know before a job exists. Left out of diffusers' own list are those that need more than a text
(ControlNets) or make no still picture. A test compares this with diffusers.
"""

# No negative prompt: guidance is distilled into the model, or it is no diffusion model.
WITHOUT_NEGATIVE_PROMPT = frozenset(
    """
    Flux2KleinPipeline Flux2Pipeline GlmImagePipeline Ideogram4Pipeline
    LatentConsistencyModelPipeline
    """.split()
)
AUTO_PIPELINES = WITHOUT_NEGATIVE_PROMPT | frozenset(
    """
    AuraFlowPipeline ChromaPipeline CogView3PlusPipeline CogView4Pipeline FluxKontextPipeline
    FluxPipeline HunyuanDiTPAGPipeline HunyuanDiTPipeline IFPipeline Kandinsky3Pipeline
    KandinskyCombinedPipeline KandinskyV22CombinedPipeline Krea2Pipeline Lumina2Pipeline
    LuminaPipeline NucleusMoEImagePipeline OvisImagePipeline PRXPipeline PixArtAlphaPipeline
    PixArtSigmaPAGPipeline PixArtSigmaPipeline QwenImage21Pipeline QwenImagePipeline
    SanaPAGPipeline SanaPipeline StableCascadeCombinedPipeline StableDiffusion3PAGPipeline
    StableDiffusion3Pipeline StableDiffusionPAGPipeline StableDiffusionPipeline
    StableDiffusionXLPAGPipeline StableDiffusionXLPipeline WuerstchenCombinedPipeline
    ZImageOmniPipeline ZImagePipeline
    """.split()
)
