"""Frozen pydantic models: Specs in, Reports out, the Manifest, and the records.

Import from the module that defines a model (``contracts.specs``, ``contracts.records``,
``contracts.training``, ``contracts.evaluation``, ``contracts.manifest``, ``contracts.run``,
``contracts.settings``, ``contracts.stage``).
"""
