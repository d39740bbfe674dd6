"""What Linux alone offers: prctl, /proc, file locks, the boot clock, the setup of a child."""
