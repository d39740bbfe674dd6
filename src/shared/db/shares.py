"""How much of the devices each user has used: the virtual time by which users take turns.

* A user's virtual time is the seconds that its executions held a slot, each divided by its step's
  weight. It is kept per device, since a second of a GPU is not one of a CPU.
* It is written with the end of the execution, in the same transaction. So it survives restarts, and
  a worker that dies costs an account at most the one execution that the rescuer ends instead. One
  that got no GO is charged nothing.
* A user who was idle has saved nothing up: its virtual time is at least the greatest one at which
  any user's step has started on that device (`start_s`). Idle is who had no step in flight, and
  none waiting, when the oldest of those that wait now was created.

The claim reads these rows and writes none (`shared.db.claim`): it notes the virtual time on the
step, so claims of one user do not wait for each other.
"""

from typing import Any

from sqlalchemy import DateTime, Float, Row, case, cast, func, literal
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.tables import shares
from shared.states import StepState
from shared.step_store import NEWEST


async def charge_share(connection: AsyncConnection, step: Row[Any]) -> None:
    """Add an execution that ends to its user's account. `step` is its row from before the end.

    The row stays locked until the commit, so this comes last in a transaction.
    """
    start_s = step.virtual_s or 0.0
    used_s = _used_s(step)
    row = {
        "user": step.user,
        "device": step.device,
        "virtual_s": start_s + used_s / step.weight,
        "start_s": start_s,
        "mean_s": used_s,
        "ended_at": func.now(),
    }
    new = insert(shares).values(row)
    await connection.execute(
        new.on_conflict_do_update(
            index_elements=[shares.c.user, shares.c.device],
            set_={
                "virtual_s": func.greatest(shares.c.virtual_s, start_s) + used_s / step.weight,
                "start_s": func.greatest(shares.c.start_s, start_s),
                "mean_s": case(
                    (used_s == 0, shares.c.mean_s),
                    (shares.c.mean_s == 0, used_s),
                    else_=shares.c.mean_s * (1 - NEWEST) + used_s * NEWEST,
                ),
                "ended_at": func.now(),
            },
        )
    )


def _used_s(step: Row[Any]) -> Any:
    """Seconds from the claim to now, or to the end of the lease when its worker was lost."""
    if step.claimed_at is None or step.state == StepState.LEASED:
        return literal(0.0)
    ended_at = func.least(func.now(), literal(step.lease_expires_at, DateTime(timezone=True)))
    seconds = func.extract("epoch", ended_at - literal(step.claimed_at, DateTime(timezone=True)))
    return cast(func.greatest(seconds, 0), Float)
