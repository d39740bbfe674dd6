"""Put the trained upscaler together as a model folder that Dream Forge can install.

python -m training.assemble_upscaler --work training/work
"""

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from training.concepts import HERE
from training.console import say, work_argument
from training.train_upscaler import CHECKPOINT
from training.upscaler import build_upscaler

from runner.upscalers.networks import describe_network
from shared.models.describe import DescriptorInput, describe_folder
from shared.models.descriptor import Source
from shared.models.folder import ONE_FILE
from shared.models.verify import write_descriptor


def assemble(work: Path, target: Path, card: Path) -> None:
    """Make `target` afresh from the averaged weights in `work` and the texts in `card`."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(card, target)
    network = build_upscaler()
    state = torch.load(work / CHECKPOINT, map_location="cpu", weights_only=True)
    network.load_state_dict(state["average"])
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(weights, target / ONE_FILE, metadata={"format": "pt"})
    for path in (target, *target.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    name, _, version = target.name.partition("@")
    descriptor = describe_folder(
        target,
        DescriptorInput(
            name=name,
            version=version,
            source=Source(uri="dreamforge:training"),
            license="MIT",
            network=describe_network(target / ONE_FILE),
        ),
    )
    write_descriptor(target, descriptor)


def main() -> None:
    """Assemble, and say how large the folder is."""
    parser = argparse.ArgumentParser(description=__doc__)
    work_argument(parser)
    parser.add_argument("--target", type=Path, default=Path("models/network/dreamforge-upscaler@1"))
    parser.add_argument("--card", type=Path, default=HERE / "card_upscaler")
    args = parser.parse_args()
    assemble(args.work, args.target, args.card)
    size = sum(path.stat().st_size for path in args.target.iterdir())
    say(f"{args.target}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
