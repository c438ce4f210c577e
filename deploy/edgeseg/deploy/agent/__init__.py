"""The device agent: receives a signed release, tries it in the idle slot and goes back by itself when it fails.

Python's standard library and OpenSSH's `ssh-keygen` are all that it needs, and it imports nothing else of edgeseg:
it must work on a device where nothing else does. `edgeseg deploy agent` packs it into a single file.
"""
