"""A worker, `python -m tests.support.timed_worker`: the real one, with timings that a test gave.

Import-light, like `supervisor.__main__`: spawn imports this module again in every runner.
"""

from __future__ import annotations


def main() -> int:
    from tests.support import quick_timings

    from supervisor import worker

    return worker.main(quick_timings.from_environment())


if __name__ == "__main__":
    raise SystemExit(main())
