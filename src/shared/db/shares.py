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

from sqlalchemy import Boolean, DateTime, Float, bindparam, case, cast, func, literal_column
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.statement import Statement
from shared.db.stored_values import known
from shared.db.tables import shares
from shared.states import StepState
from shared.step_store import NEWEST


async def charge_share(connection: AsyncConnection, step: Any) -> None:
    """Add an execution that ends to its user's account. `step` is its row from before the end.

    The row stays locked until the commit, so this comes last in a transaction.
    """
    await _CHARGE.run(
        connection,
        user=step.user,
        device=step.device,
        start_s=step.virtual_s or 0.0,
        weight=step.weight,
        is_charged=step.state != StepState.LEASED,
        claimed_at=known(step.claimed_at),
        lease_expires_at=known(step.lease_expires_at),
    )


def _charge() -> Statement:
    start_s = bindparam("start_s", type_=Float)
    used_s = _used_s()
    virtual_s = used_s / bindparam("weight", type_=Float)
    new = insert(shares).values(
        user=bindparam("user"),
        device=bindparam("device"),
        virtual_s=start_s + virtual_s,
        start_s=start_s,
        mean_s=used_s,
        ended_at=func.now(),
    )
    return Statement(
        new.on_conflict_do_update(
            index_elements=[shares.c.user, shares.c.device],
            set_={
                "virtual_s": func.greatest(shares.c.virtual_s, start_s) + virtual_s,
                "start_s": func.greatest(shares.c.start_s, start_s),
                "mean_s": case(
                    (used_s == literal_column("0"), shares.c.mean_s),
                    (shares.c.mean_s == literal_column("0"), used_s),
                    else_=shares.c.mean_s * (1 - NEWEST) + used_s * NEWEST,
                ),
                "ended_at": func.now(),
            },
        )
    )


def _used_s() -> Any:
    """Seconds from the claim to now, or to the end of the lease when its worker was lost; 0 without
    a claim, or without a GO."""
    claimed_at = bindparam("claimed_at", type_=DateTime(timezone=True))
    lease_expires_at = bindparam("lease_expires_at", type_=DateTime(timezone=True))
    seconds = func.extract("epoch", func.least(func.now(), lease_expires_at) - claimed_at)
    is_charged = bindparam("is_charged", type_=Boolean) & claimed_at.is_not(None)
    return case((is_charged, cast(func.greatest(seconds, 0), Float)), else_=literal_column("0.0"))


_CHARGE = _charge()
