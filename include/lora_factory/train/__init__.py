"""Train: a LoRA from a dataset and a plan; resumes after a kill, goes on from a parent."""
