"""The command `strata`, which this package installs."""
import sys

from . import _native


def main() -> int:
    """Runs `strata` with the arguments of the process, and returns its exit code."""
    return _native.main(["strata", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
