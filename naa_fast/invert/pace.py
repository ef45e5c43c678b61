"""How long a search by gradients takes unless it is said."""

from __future__ import annotations

STEPS = 200
"""Steps of each search."""
