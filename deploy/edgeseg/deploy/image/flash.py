"""NVIDIA's commands that put a finished root file system onto a Jetson Orin. They were never run here."""

from __future__ import annotations

from pathlib import Path

_PAGES = (
    "https://docs.nvidia.com/jetson/archives/r36.4/DeveloperGuide/IN/QuickStart.html",
    "https://docs.nvidia.com/jetson/archives/r36.4/DeveloperGuide/SD/FlashingSupport.html",
)
_EXTERNAL = "-c tools/kernel_flash/flash_l4t_t234_nvme.xml"
_QSPI = '-p "-c bootloader/generic/cfg/flash_t234_qspi.xml"'
_TOOL = "sudo ./tools/kernel_flash/l4t_initrd_flash.sh"
_NANO, _AGX = "jetson-orin-nano-devkit", "jetson-agx-orin-devkit"
_WAYS = (
    ("Orin Nano or Orin NX, NVMe", f"{_TOOL} --external-device nvme0n1p1 {_EXTERNAL} {_QSPI}", f"{_NANO} internal"),
    ("Orin Nano, SD card", f"{_TOOL} --external-device mmcblk0p1 {_EXTERNAL} {_QSPI}", f"{_NANO} internal"),
    ("AGX Orin, its eMMC", _TOOL, f"{_AGX} internal"),
    ("AGX Orin, NVMe", f"{_TOOL} --external-device nvme0n1p1 {_EXTERNAL}", f"{_AGX} external"),
)


def flash_steps(rootfs: Path) -> str:
    """Return the steps for a root file system in the folder or tar archive `rootfs`, as lines of shell and comments."""
    if rootfs.name == "rootfs" and rootfs.is_dir():
        place = [f"cd {rootfs.parent}"]
    elif rootfs.is_dir():
        place = ["cd Linux_for_Tegra", f"sudo cp -a {rootfs}/. rootfs/"]
    else:
        place = [
            "cd Linux_for_Tegra",
            f"sudo tar --xattrs --xattrs-include='*' --numeric-owner -xpf {rootfs} -C rootfs",
        ]
    lines = [
        "# Jetson Linux 36.4 (JetPack 6). edgeseg's authors never ran this: compare with NVIDIA's pages for your own,",
        *(f"# {page}" for page in _PAGES),
        *place,
        "sudo ./tools/l4t_flash_prerequisites.sh",
        "sudo ./apply_binaries.sh",
        "# The device is connected by USB and in recovery mode. One of:",
    ]
    for title, command, board in _WAYS:
        lines += [f"# {title}", f"{command} --showlogs --network usb0 {board}"]
    return "".join(f"{line}\n" for line in lines)
