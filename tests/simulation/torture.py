"""Run simulated lives of the platform, one a seed, and audit each.

Every seed gives the same run each time: a failing one is replayed with `--seed N -v`.
With `--break NAME` a rule of the protocol is taken out: first the rule's named scenario
runs, then the seeds, and the exit status must not be 0.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time

from simulation.breaks import BREAKS
from simulation.scenario import Report, run_seed
from simulation.scenarios import run_scenario

_COMMAND = "PYTHONPATH=tests python tests/simulation/torture.py"


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 if every promise held, 1 if one was broken."""
    options = _parse(arguments)
    breaks = (options.breaks,) if options.breaks else ()
    if options.seed is not None:
        return _replay(options.seed, breaks, options.verbose)
    if options.breaks and not _scenario_holds(options.breaks, options.verbose):
        return 1
    began = time.monotonic()
    for seed in range(options.seed_base, options.seed_base + options.seeds):
        report = run_seed(seed, breaks)
        gc.collect()
        if report.violations:
            _print_failure(report, options.breaks)
            return 1
    print(f"{options.seeds} seeds from {options.seed_base}: no violation, {time.monotonic() - began:.1f} s")
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, metavar="N", help="how many seeds to run")
    parser.add_argument("--seed-base", type=int, default=0, metavar="M", help="the first of them")
    parser.add_argument("--seed", type=int, metavar="N", help="run this one and print its trace")
    parser.add_argument("--break", dest="breaks", choices=BREAKS, metavar="NAME", help=f"one of {', '.join(BREAKS)}")
    parser.add_argument("-v", "--verbose", action="store_true", help="the trace, also if nothing broke")
    return parser.parse_args(arguments)


def _scenario_holds(broken: str, verbose: bool) -> bool:
    report = run_scenario(broken, (broken,))
    if verbose:
        print("\n".join(report.world.lines()))
    for violation in report.violations:
        print(f"violation: {violation}")
    if report.violations:
        print(f"scenario {broken} failed without its rule; its trace: {_COMMAND} --break {broken} -v")
    return not report.violations


def _replay(seed: int, breaks: tuple[str, ...], verbose: bool) -> int:
    report = run_seed(seed, breaks)
    if verbose or report.violations:
        print("\n".join(report.world.lines()))
    for violation in report.violations:
        print(f"violation: {violation}")
    print(f"seed {seed}: {len(report.violations)} violations, trace {report.world.digest()[:16]}")
    return 1 if report.violations else 0


def _print_failure(report: Report, broken: str | None) -> None:
    for violation in report.violations:
        print(f"violation: {violation}")
    rule = f" --break {broken}" if broken else ""
    print(f"seed {report.seed} failed; replay: {_COMMAND} --seed {report.seed}{rule} -v")


if __name__ == "__main__":
    gc.disable()
    sys.exit(main())
