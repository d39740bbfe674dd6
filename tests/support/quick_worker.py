"""A worker, `python -m tests.support.quick_worker`, whose runners do what a prompt's words say.

It is the real one, with the runners of `tests.support.runners` in place of ours: they draw nothing,
and start in a tenth of a second. Import-light, since spawn imports this again in every runner.
"""

from __future__ import annotations


def main() -> int:
    from unittest.mock import patch

    from tests.support import quick_timings, runners

    from runner import entry
    from supervisor import worker

    with patch.object(entry, "main", runners.main):
        return worker.main(quick_timings.from_environment())


if __name__ == "__main__":
    raise SystemExit(main())
