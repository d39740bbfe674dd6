"""`dreamforge doctor`: what is right with this machine, what is not, and what to do about it."""

from __future__ import annotations

from cli import environment


def doctor() -> None:
    """Check this machine and say what to do about each finding; exit 1 when something is wrong."""
    from cli import checks, checks_stack
    from cli.console import out
    from cli.failures import Failure

    environ = environment.with_running_stack(environment.effective())
    wrong = 0
    for finding in (
        *checks.examine(environ),
        *checks_stack.examine(environ, environment.home(environ)),
    ):
        out.print(f"{finding.level.value:<5} {finding.subject}: {finding.text}", soft_wrap=True)
        if finding.advice:
            out.print(f"      -> {finding.advice}", soft_wrap=True)
        wrong += finding.level is checks.Level.WRONG
    if wrong:
        raise Failure(f"{wrong} of these need your attention", exit_code=1)
