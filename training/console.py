"""What the scripts share on the command line: arguments, output lines, the device."""

import argparse
import sys
import time
from pathlib import Path

import torch


def say(line: str) -> None:
    """One line to standard output, at once, so that a log file can be followed."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stdout.flush()


def work_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--work`, the folder that holds everything between the download and the model."""
    parser.add_argument(
        "--work", type=Path, default=Path("training/work"), help="folder for data and checkpoints"
    )


def device_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--device` and `--threads`."""
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--seed", type=int, default=0)


def set_up_device(args: argparse.Namespace) -> torch.device:
    """Seed everything, pin the threads, and return the device."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    return torch.device(args.device)
