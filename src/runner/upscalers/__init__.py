"""The implementations of `upscale`: by resampling, by a GAN, by diffusion."""
