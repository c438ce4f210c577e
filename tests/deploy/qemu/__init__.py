"""A device as a whole computer: Debian on qemu-system-aarch64, with a camera of the kernel's own (vivid)."""
