"""The text-to-image pipelines of diffusers: load one, sample with it, watch its prompts."""
