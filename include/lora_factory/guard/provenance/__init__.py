"""Where a thing comes from, said so that others can check it.

* :mod:`keys`: the operator's key pair and certificates; ``python -m lora_factory keys make``.
* :mod:`signing`: a release folder signed as a whole (OpenSSF Model Signing).
* :mod:`lineage`: every image of the dataset with source and licence; every artifact back to raw.
* :mod:`bom`: a CycloneDX machine-learning bill of materials.
* :mod:`c2pa`: a signed manifest inside every generated image (C2PA, Content Credentials).
* :mod:`watermark`: an imperceptible mark in the pixels, which outlives the manifest.
* :mod:`marks`: both of them on every image that leaves, as EU AI Act, article 50(2) asks.
* :mod:`release`: all of it for one release; :mod:`verify`: all of it checked.
"""
