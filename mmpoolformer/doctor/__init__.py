"""Says what is installed, what is wrong with it, and what cures it.

    python -m mmpoolformer.doctor
    python -m mmpoolformer.doctor --json

Needs nothing but the standard library, so that it runs where nothing else does.
"""

import argparse
from collections.abc import Sequence

from mmpoolformer.doctor.checks import diagnose, gather
from mmpoolformer.doctor.report import as_json, report


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; return 1 if a problem would stop training, else 0."""
    parser = argparse.ArgumentParser(
        prog='python -m mmpoolformer.doctor',
        description='Say what is installed, what is wrong with it, and the cure.',
        epilog='The exit status is 1 if a problem would stop training, else 0.',
    )
    parser.add_argument('--json', action='store_true', help='for a program to read')
    options = parser.parse_args(argv)
    facts = gather()
    problems = diagnose(facts)
    print((as_json if options.json else report)(facts, problems))
    return int(any(problem.level == 'error' for problem in problems))
