"""AWS requests a message, and dollars a million messages, by service and operation.

The real acceptors, router, workers, reporting and fleet controller run on a virtual clock, on stores in memory; each
request that the stores on AWS would make is counted, at public prices. With --check they run in real time on the AWS
endpoint of the environment, and the requests that were made are held against those that were counted.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

from bench import live, mixes  # noqa: E402
from bench.bill import BUDGETS, Bill, bill_of, table  # noqa: E402
from bench.metered_platform import Load, simulate  # noqa: E402
from postfleet.settings import ON_AWS  # noqa: E402

MAKERS = {"campaign": mixes.campaign, "transactional": mixes.transactional}
RETRIES_BACK = 25.0
"""Virtual seconds after which the first deferred messages have come back."""
LEAST_WARM_UP = 40.0
LEAST_SECONDS = 20.0
CHECK_RATE = 20.0


def main() -> int:
    """Exit status: 1 if a budget is exceeded, or the check fails."""
    options = _parse()
    if options.check:
        return _check(options)
    bills = [_measure(options.mix, rate, options) for rate in options.rate]
    if options.json:
        print(json.dumps([bill.as_record() for bill in bills], indent=2))
    return 1 if any(bill.over_budget for bill in bills) else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mix", choices=MAKERS, default="transactional")
    parser.add_argument("--rate", type=_rates, default=[10.0, 100.0, 1000.0], metavar="N,N", help="messages per second")
    parser.add_argument("--keyed", action="store_true", help="every submission has an idempotency key")
    parser.add_argument("--seconds", type=float, metavar="S", help="how long to count")
    parser.add_argument("--warm-up", type=float, metavar="S", help="how long to run before")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true", help=f"compare with an endpoint, at {CHECK_RATE:g} messages/s")
    return parser.parse_args()


def _rates(text: str) -> list[float]:
    return [float(rate) for rate in text.split(",")]


def _measure(mix: str, rate: float, options: argparse.Namespace) -> Bill:
    """Over a whole number of transmissions, in steady state."""
    period = mixes.CAMPAIGN_RECIPIENTS / rate if mix == "campaign" else 1.0
    warm_up = options.warm_up or max(LEAST_WARM_UP, -(-RETRIES_BACK // period) * period)
    seconds = options.seconds or max(LEAST_SECONDS, 2 * period)
    load = Load(make=MAKERS[mix], rate=rate, keyed=options.keyed)
    meter, measured = simulate(ON_AWS, load, warm_up, seconds)
    budget = BUDGETS.get(mix) if rate >= 1000 and not options.keyed else None
    bill = bill_of(f"{mix}{' keyed' if options.keyed else ''}", rate, rate * seconds, measured.taken, meter, budget)
    if not options.json:
        print(table(bill))
        print("".join(f"warned: {event}, {count} times\n" for event, count in measured.warnings.items()))
    return bill


def _check(options: argparse.Namespace) -> int:
    load = Load(make=MAKERS[options.mix], rate=CHECK_RATE, keyed=options.keyed)
    try:
        found = live.compare(ON_AWS, load, options.warm_up or LEAST_WARM_UP, options.seconds or LEAST_SECONDS)
    except ValueError as error:
        print(f"--check: {error}", file=sys.stderr)
        return 2
    for each in found:
        print(
            f"{each.operation:32} counted {each.metered:6} made {each.observed:6} {'' if each.agrees else 'DIFFERENT'}"
        )
    return 0 if all(each.agrees for each in found) else 1


if __name__ == "__main__":
    sys.exit(main())
