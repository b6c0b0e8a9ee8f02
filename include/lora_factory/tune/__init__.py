"""Tune: measures the dataset and the machine and recommends a training plan."""
