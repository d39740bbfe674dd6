"""The text-to-image pipelines of diffusers: load one, sample with it, watch its prompts."""

from runner.process.imports import leave_out_unused

leave_out_unused()  # before a file of this room imports diffusers
