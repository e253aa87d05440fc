from __future__ import annotations

import os

from hypothesis import settings

# CI runs the same examples every time, so that a red run is about the change; other runs go on searching.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
