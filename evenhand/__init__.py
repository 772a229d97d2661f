"""evenhand: debiasing adapters for Stable Diffusion, and the measurement of what they changed."""

__version__ = "0.1.0"
