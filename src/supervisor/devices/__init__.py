"""What the devices of this host are, what memory they hold, and which worker owns them."""
