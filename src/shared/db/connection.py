"""The type of an open transaction, for those who pass one on without knowing SQLAlchemy."""

from sqlalchemy.ext.asyncio import AsyncConnection as Connection

__all__ = ["Connection"]
