"""`python -m edgeseg.runtime` is the command `edgeseg`."""

from edgeseg.runtime.cli import main

if __name__ == "__main__":
    main(prog_name="edgeseg")
