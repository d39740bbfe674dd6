"""How many steps a model takes where a request does not say."""

from api.admission.models import choose_model
from api.context import Context
from shared.db import models
from shared.errors import InvalidInput
from shared.models.descriptor import Capability


async def default_steps(context: Context, reference: str | None, capability: Capability) -> int:
    """The steps of the model that `reference` names, or of the one that has the capability.

    Raises `ModelUnavailable`, and `InvalidInput` where the model has no default.
    """
    rows = await context.database.statement(models.list_models)
    default = context.settings.default_model
    model = choose_model(rows, reference, default=default, capability=capability)
    steps = model.parameters_schema.get("properties", {}).get("steps", {}).get("default")
    if not isinstance(steps, int):
        raise InvalidInput(
            f"quality: model {model.name} has no steps of its own to go by; send `steps`",
            field="quality",
        )
    return steps
