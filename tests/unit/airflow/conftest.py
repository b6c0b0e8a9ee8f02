"""Airflow writes its configuration file into its home when it is first imported."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

if "AIRFLOW_HOME" not in os.environ:
    HOME = tempfile.mkdtemp(prefix="lora-factory-airflow-")
    atexit.register(shutil.rmtree, HOME, ignore_errors=True)
    os.environ |= {"AIRFLOW_HOME": HOME, "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
