"""What can go wrong between here and a device.

FleetError               one device's problem, in one line
├── OfflineError         not reached, or lost on the way: worth another try
└── RefusedError         the device's agent said no
"""

from __future__ import annotations

from edgeseg.deploy.errors import DeployError


class FleetError(DeployError):
    """A problem with one device that another try does not mend."""


class OfflineError(FleetError):
    """The device was not reached, or the link to it was lost."""


class RefusedError(FleetError):
    """The agent on the device refused."""
