"""Model roles, the profiles that fill them, and their loaders.

torch and transformers are imported inside functions, so that importing this package is cheap.
"""
