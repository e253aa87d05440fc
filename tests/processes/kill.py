"""`make kill`: every kind of process killed several times under load, and the audit after it."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

from support.kills import AWS_SANDBOX_SETTINGS, HELD_IN_MEMORY, SETTINGS, draw_kills, run_kills
from support.platform import running_platform

GAPS = (0.2, 4.0)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=3, help="of each kind of process")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of kinds, processes and moments")
    parser.add_argument(
        "--rate", type=float, help="messages a second over HTTP, and as many over SMTP; default: 100, or 3 on moto"
    )
    parser.add_argument("--aws-sandbox", action="store_true", help="stores on moto and SeaweedFS")
    parser.add_argument("--keep", type=Path, help="leave the data directory here instead of removing it")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    spared, settings, up, rate = ((), SETTINGS, [], 100.0)
    if options.aws_sandbox:
        spared, settings, up, rate = (HELD_IN_MEMORY, AWS_SANDBOX_SETTINGS, ["--aws-sandbox"], 3.0)
    kills = draw_kills(random.Random(options.seed), options.kills, GAPS, spared)
    print(f"SEED={options.seed} KILLS={options.kills}", Counter(kill.process for kill in kills), flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="postfleet-kill-") as directory,
        running_platform(options.keep or Path(directory) / "var", settings, *up) as platform,
    ):
        result = run_kills(platform, kills, rate=options.rate or rate)
    audit = result.audit
    print(f"clients: {result.accepted} accepted, {result.refused} refused, {result.unanswered} without an answer")
    print("audit:", ", ".join(f"{name} {value}" for name, value in audit.items() if name != "violations"))
    print(f"of the permitted duplicates {result.drops} are due to the MX, which drops connections")
    print(*audit["violations"], sep="\n")
    return 1 if audit["violations"] or audit["pending"] or result.refused else 0


if __name__ == "__main__":
    sys.exit(main())
