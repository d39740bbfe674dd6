"""`dreamforge doctor`: what is right with this machine, what is not, and what to do about it."""

from cli import config
from cli.errors import Failure
from cli.terminal.output import print_line


def doctor() -> None:
    """Check this machine and say what to do about each finding; exit 1 when something is wrong."""
    from cli.doctor import machine, stack
    from cli.doctor.finding import Level

    environ = config.environ()
    wrong = 0
    for finding in (
        *machine.examine(environ),
        *stack.examine(environ, config.home(environ)),
    ):
        print_line(f"{finding.level.value:<5} {finding.subject}: {finding.text}")
        if finding.advice:
            print_line(f"      -> {finding.advice}")
        wrong += finding.level is Level.WRONG
    if wrong:
        raise Failure(f"{wrong} of these need your attention", exit_code=1)
