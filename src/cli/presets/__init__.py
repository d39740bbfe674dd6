"""Show presets, choose one for a model, and measure what a model needs."""
