"""From a bundle to a device, and back when it fails."""
