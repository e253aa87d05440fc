from __future__ import annotations

from postfleet.cli import main

main()
