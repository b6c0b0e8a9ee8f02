"""LoRA Factory: from a topic to a deployed, watched, self-improving LoRA.

The library half. It never imports Airflow and can be used from a shell:
``python -m lora_factory <stage> --spec spec.json --report report.json``.
"""

__version__ = "0.1.0"
