"""Two consoles: results on stdout, everything else on stderr, so that a pipe gets results only."""

from rich.console import Console

# Names, prompts and messages are shown as they are: no markup, no emoji codes, no colours of ours.
out = Console(highlight=False, emoji=False, markup=False)
err = Console(stderr=True, highlight=False, emoji=False, markup=False, soft_wrap=True)
