"""Optimise: a LoRA that passed, smaller or faster; evaluate judges the build again."""
