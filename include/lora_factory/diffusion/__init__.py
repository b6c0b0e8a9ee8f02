"""Diffusion model families: load a base, encode, generate, adapters and their files.

Adding a family is one file here and one line in :mod:`lora_factory.diffusion.families`.
torch and diffusers are imported inside functions, so that importing this package is cheap.
"""
