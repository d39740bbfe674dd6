"""The one error of the embedded stack: a line for the operator that says what and what to do."""

from __future__ import annotations


class StackError(Exception):
    """A part cannot start, died for good, or the machine is not fit; the message is shown as is."""
