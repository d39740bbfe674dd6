"""Child processes: started, read, scanned, killed, and found again after a crash."""
