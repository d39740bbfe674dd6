"""`python -m runner.network_check FILE`: what network of an upscaler is in a file?

For `dreamforge model import`, which loads no torch itself and waits for one line of JSON, a
`NetworkAnswer`. The libraries are imported once the process is contained.
"""

import sys
from importlib import import_module
from pathlib import Path

from runner.process.import_check import contain
from shared.errors import ModelUnavailable
from shared.models.networks import NetworkAnswer


def main(file: Path) -> int:
    """Print the answer; return the exit code."""
    contain(file.resolve().parent)  # by its own name, which may be a link's
    import_module("torch").set_num_threads(1)
    networks = import_module("runner.upscalers.networks")
    try:
        answer = NetworkAnswer(network=networks.describe_network(file))
    except ModelUnavailable as error:
        recognised = not isinstance(error, networks.NotRecognised)
        answer = NetworkAnswer(refused=error.message, recognised=recognised)
    sys.stdout.write(answer.model_dump_json() + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
