"""Devices without a device: Debian booted in a container, with its own kernel name spaces, address, SSH and disk.

    with Devices(folder) as devices:                        # folder: short-lived, takes keys and known_hosts
        device = devices.boot("cam1", signer=release_key)   # agent and units installed, trusting that key
        device.ssh("status")                                # as edgeseg-agent over the network; -> CompletedProcess
        device.run("systemctl", "is-active", "edgeseg")     # as root at its console: works with the link down too
        device.status()                                     # the agent's status, from the console
        device.set_link(False); device.cut_power(); device.start(); device.reboot(); device.stop()

    devices.ssh_options                                     # for a pusher of your own: ssh, sftp, pyinfra, ansible
    device.address, device.known_host                       # 10.99.N.2; the line of `known_hosts`

A device is an overlay over one file system that mmdebstrap makes once (rootfs.py). What it writes lies on its own
ext4 disk of `disk_mb`, so it can be filled, and `cut_power` keeps only what had reached that disk: what was written
and not synced is lost. Several run at once; each takes about 60 MB of memory and boots in a second or two.

`why_not_here()` tells why none can run on this machine: root, mmdebstrap and systemd-container are needed.
`write_program(folder, "crash")` makes a wheelhouse whose program speaks as a release does and then misbehaves, and
`SETTINGS` are the agent's settings that run it, with short times.

The kernel is this machine's: its clock, modules and drivers are shared, and no GPU, camera or boot loader is there.
The units are the shipped ones; a file of each boot's id is bound into them.
"""

from tests.deploy.devices.device import AS_AGENT, Device, Devices
from tests.deploy.devices.programs import BEHAVIOURS, SETTINGS, write_power_tools, write_program
from tests.deploy.devices.rootfs import why_not_here

__all__ = [
    "AS_AGENT",
    "BEHAVIOURS",
    "SETTINGS",
    "Device",
    "Devices",
    "why_not_here",
    "write_power_tools",
    "write_program",
]
