"""The one error of this portion."""

from __future__ import annotations

from edgeseg.runtime.errors import EdgesegError


class DeployError(EdgesegError):
    """A key, a signature or a release that cannot be made or is not to be trusted."""
