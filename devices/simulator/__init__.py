"""Pretend machines: a seeded fleet that speaks MQTT and raw TCP to a box over real sockets and keeps books.

A stranger to the box: it shares no code with the log or the status view, and believes only what it is answered.
"""

from __future__ import annotations

from devices.simulator.fleet import FleetOptions, run_fleet
from devices.simulator.report import DeviceReport, FleetReport

__all__ = ["DeviceReport", "FleetOptions", "FleetReport", "run_fleet"]
