"""What ``/metrics`` tells: rate, errors, durations, saturation; no prompt, no user."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from lora_factory.serve.engine import Drawn, Engine

BUCKETS = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120)
BASE = "base"  # adapter label of a picture that no adapter drew
OTHER = "other"  # of those beyond the first so many: a label's values must not grow for ever
NAMED = 50


class Metrics:
    """One app's metrics, in a registry of their own."""

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self._named: set[str] = set()
        self.requests = Counter(
            "lora_http_requests",
            "HTTP requests",
            ["route", "method", "code"],
            registry=self.registry,
        )
        self.latency = Histogram(
            "lora_http_request_duration_seconds",
            "From request to answer",
            ["route"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.drawing = Histogram(
            "lora_generation_duration_seconds",
            "Drawing one batch, waiting not included",
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.marking = Histogram(
            "lora_marking_duration_seconds",
            "Watermark, PNG and manifest of one picture",
            buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1),
            registry=self.registry,
        )
        self.waiting = Histogram(
            "lora_queue_wait_seconds",
            "Waiting for the engine",
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.generations = Counter(
            "lora_generations", "Pictures drawn", ["adapter"], registry=self.registry
        )
        self.feedback = Counter("lora_feedback", "Ratings", ["result"], registry=self.registry)
        self.blocks = Counter(
            "lora_safety_blocks", "Prompts and pictures refused", ["rule"], registry=self.registry
        )
        depth = Gauge("lora_queue_depth", "Requests that wait", registry=self.registry)
        depth.set_function(lambda: engine.depth)
        swaps = Gauge(
            "lora_adapter_loads", "Adapters loaded since the start", registry=self.registry
        )
        swaps.set_function(lambda: engine.swaps)
        held = Gauge("lora_adapter_bytes", "Memory adapters take", registry=self.registry)
        held.set_function(lambda: engine.adapter_bytes)

    def drew(self, drawn: Drawn, adapter: str | None) -> None:
        """Count a picture; a refused prompt was not drawn."""
        self.waiting.observe(drawn.waited)
        if drawn.refused != "prompt":
            self.generations.labels(self._label(adapter)).inc()
            self.drawing.observe(drawn.seconds)

    def _label(self, adapter: str | None) -> str:
        if adapter is None or adapter in self._named:
            return adapter or BASE
        if len(self._named) < NAMED:
            self._named.add(adapter)
            return adapter
        return OTHER

    def text(self) -> bytes:
        """Prometheus' exposition format."""
        return generate_latest(self.registry)
