"""Tests of clouds whose SDKs live in an environment of their own: ``make test-cloud``."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("target_contract")
