"""What the other packages share. It imports none of them."""
