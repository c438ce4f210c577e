"""Debian for the emulated computer: its kernel and packages once, its modules, a root shell, and a quick way to boot.

What is made is kept in $EDGESEG_QEMU_CACHE (about 400 MB; four minutes on two cores).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

TOOLS = {
    "qemu-system-aarch64": "qemu-system-arm", "mmdebstrap": "mmdebstrap", "arch-test": "arch-test",
    "qemu-aarch64-static": "qemu-user-static", "cpio": "cpio", "modprobe": "kmod", "mke2fs": "e2fsprogs",
}  # fmt: skip
PACKAGES = (
    "systemd-sysv,udev,dbus,kmod,openssh-server,openssh-client,python3,python3-venv,v4l-utils,iproute2,netbase,"
    "procps,sudo,ca-certificates"
)
MIRROR = "http://deb.debian.org/debian"

SHELL = """\
[Unit]
Description=a root shell on the serial console, for tests
[Service]
ExecStart=/bin/sh -c 'stty -F /dev/ttyAMA0 -echo -onlcr; echo @ready; PS1= exec /bin/sh'
StandardInput=tty-force
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyAMA0
Restart=always
[Install]
WantedBy=multi-user.target
"""
NETWORK = """\
[Unit]
Description=qemu's own network
Before=network.target
[Service]
Type=oneshot
ExecStart=/usr/sbin/ip addr add 10.0.2.15/24 dev eth0
ExecStart=/usr/sbin/ip link set eth0 up
[Install]
WantedBy=multi-user.target
"""
QUICK = """\
#!/bin/sh
# Instead of systemd: what the agent needs and nothing else.
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t tmpfs run /run; mount -t tmpfs tmp /tmp
mkdir /run/edgeseg-agent /run/edgeseg && chown edgeseg-agent:edgeseg /run/edgeseg-agent /run/edgeseg
exec </dev/ttyAMA0 >/dev/ttyAMA0 2>&1
stty -echo -onlcr; echo @ready
while :; do PS1= /bin/sh; done
"""
INIT = """\
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev; /bin/busybox mount -t proc proc /proc; /bin/busybox mount -t sysfs sys /sys
while read module; do /bin/busybox insmod /modules/$module; done </modules/order
until [ -b /dev/vda ]; do /bin/busybox sleep 0.1; done
case $(/bin/busybox cat /proc/cmdline) in *test.wait*)
  # Whoever saves the computer here can start it again with any disk: nothing of this one is remembered.
  /bin/busybox blockdev --flushbufs /dev/vda; echo 3 >/proc/sys/vm/drop_caches; echo @waiting; read go
esac
/bin/busybox mount -t ext4 -o rw /dev/vda /root || { echo @no-root; exec /bin/busybox sh; }
/bin/busybox mount --move /dev /root/dev; init=/sbin/init
for word in $(/bin/busybox cat /proc/cmdline); do case $word in init=*) init=${word#init=};; esac; done
/bin/busybox umount /proc /sys
exec /bin/busybox switch_root /root $init
"""
BOOT_MODULES = ("virtio_pci", "virtio_blk", "ext4", "crc32c_generic")
MASKED = (
    "serial-getty@ttyAMA0.service", "getty@tty1.service", "apt-daily.timer", "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer", "fstrim.timer", "e2scrub_all.timer", "e2scrub_reap.service", "systemd-binfmt.service",
    "proc-sys-fs-binfmt_misc.automount",
)  # fmt: skip
MODULES = ("virtio_net", "vivid", "af_packet", "autofs4")


class System:
    """Kernel, first file system and packages, made when they are first asked for."""

    def __init__(self) -> None:
        missing = sorted({package for tool, package in TOOLS.items() if shutil.which(tool) is None})
        if missing or os.geteuid() != 0:
            pytest.skip(f"needs root and {' '.join(missing) or 'nothing else'} (apt-get install)")
        self._folder = Path(os.environ.get("EDGESEG_QEMU_CACHE", Path.home() / ".cache" / "edgeseg-qemu"))
        self._folder.mkdir(parents=True, exist_ok=True)
        self._tree = self._folder / "kernel"
        if not self._tree.is_dir():
            partial = self._folder / "kernel.partial"
            options = ["--variant=extract", "--include=linux-image-arm64,busybox-static"]
            _run("mmdebstrap", "--architectures=arm64", *options, "bookworm", partial, MIRROR)
            partial.rename(self._tree)
        self.version = next(path.name for path in (self._tree / "lib/modules").iterdir())
        self.kernel = self._tree / f"boot/vmlinuz-{self.version}"
        _run("depmod", "-b", self._tree, self.version)

    def initrd(self, folder: Path) -> Path:
        """Write the first file system: it mounts /dev/vda and starts what `init=` names."""
        root, out = folder / "initrd", folder / "initrd.gz"
        for name in ("bin", "dev", "proc", "sys", "root", "modules"):
            (root / name).mkdir(parents=True)
        shutil.copy(self._tree / "bin/busybox", root / "bin/busybox")
        modules = self._modules(BOOT_MODULES)
        for path in modules:
            shutil.copy(path, root / "modules")
        (root / "modules/order").write_text("".join(f"{path.name}\n" for path in modules))
        (root / "init").write_text(INIT)
        (root / "init").chmod(0o755)
        subprocess.run(f"cd {root} && find . | cpio -o -H newc --quiet | gzip -1 >{out}", shell=True, check=True)
        return out

    def rootfs(self, folder: Path) -> Path:
        """Return a Debian in `folder`, as somebody would bring it to `edgeseg image build`."""
        packed = self._folder / "rootfs.tar"
        if not packed.exists():
            partial = self._folder / "rootfs.partial.tar"
            _emulate_arm()
            options = ["--architectures=arm64", "--variant=minbase", f"--include={PACKAGES}"]
            _run("mmdebstrap", *options, "bookworm", partial, MIRROR)
            partial.rename(packed)
        root = folder / "rootfs"
        root.mkdir()
        _run("tar", "--numeric-owner", "-xpf", packed, "-C", root)
        self._install_modules(root)
        files = {
            "usr/lib/systemd/system/test-shell.service": SHELL,
            "usr/lib/systemd/system/test-network.service": NETWORK,
            "usr/sbin/quick-init": QUICK,
            "etc/fstab": "/dev/vda / ext4 defaults 0 1\n",
            "etc/hostname": "unnamed\n",
            "etc/systemd/system/edgeseg.service.d/slow.conf": "[Service]\nTimeoutStartSec=1800\nWatchdogSec=600\n",
            "etc/systemd/system/edgeseg-guard.service.d/slow.conf": "[Service]\nTimeoutStartSec=1800\n",
            "etc/systemd/system/edgeseg-probation.service.d/slow.conf": "[Service]\nTimeoutStartSec=1800\n",
            "etc/modules-load.d/test.conf": "".join(f"{name}\n" for name in MODULES),
            "etc/modprobe.d/test.conf": "options vivid n_devs=1 node_types=0x1 input_types=0x00\n",
            "etc/systemd/network/10-eth.link": "[Match]\nDriver=virtio_net\n[Link]\nNamePolicy=\nName=eth0\n",
        }
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        (root / "usr/sbin/quick-init").chmod(0o755)
        wants = root / "etc/systemd/system/multi-user.target.wants"
        for name in ("test-shell", "test-network"):
            (wants / f"{name}.service").symlink_to(f"/usr/lib/systemd/system/{name}.service")
        for name in MASKED:
            (root / "etc/systemd/system" / name).symlink_to("/dev/null")
        return root

    def _install_modules(self, root: Path) -> None:
        base = f"lib/modules/{self.version}"
        for path in self._modules(MODULES):
            target = root / "usr" / path.relative_to(self._tree)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        for path in (self._tree / base).glob("modules.[bo]*"):
            if path.name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
                shutil.copy(path, root / "usr" / base)
        _run("depmod", "-b", root, self.version)

    def _modules(self, names: tuple[str, ...]) -> list[Path]:
        found: dict[Path, None] = {}
        for name in names:
            command = ["modprobe", "-d", str(self._tree), "-S", self.version, "--show-depends", name]
            lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
            found.update(dict.fromkeys(Path(line.split()[1]) for line in lines if line.startswith("insmod")))
        return list(found)


def _emulate_arm() -> None:
    registry = Path("/proc/sys/fs/binfmt_misc")
    if not (registry / "register").exists():
        _run("mount", "-t", "binfmt_misc", "binfmt_misc", registry)
    if not (registry / "qemu-aarch64").exists():
        _run("update-binfmts", "--enable", "qemu-aarch64")


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
