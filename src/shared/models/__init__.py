"""Model folders: describe, check, recognise; and what differs between families."""
