"""Schedules: how a converted network runs in time."""

from transpike.schedules.contract import Memory, Schedule
from transpike.schedules.plain import Plain

__all__ = ["Memory", "Plain", "Schedule"]
