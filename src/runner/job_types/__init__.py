"""The job types, generate and upscale, behind one interface."""
