"""Evaluate: does a LoRA make its style, and may it be deployed? (article, section 4.1)

``evaluator`` measures, ``gates`` forbid, ``advice`` says what to change, ``grid`` and ``html``
show; ``stage`` ties them to the runner.
"""
