"""Whether a picture goes to a model that edits, or to one that starts from it."""

from api.admission.models import find_model
from api.context import Context
from shared.db import models


async def edits(context: Context, reference: str | None) -> bool:
    """Whether the model that `reference` names, or the default one, is an edit model.

    Where no model is named, edit models are taken if there is no other one for a picture.
    """
    rows = await context.database.statement(models.list_models)
    if name := reference or context.settings.default_model:
        model = find_model(rows, name)
        return model is not None and "edit" in model.capabilities
    able = {capability for each in rows if each.enabled for capability in each.capabilities}
    return "edit" in able and "image_to_image" not in able
