"""`python -m ganctl`, and the console script."""

import signal
import sys


def run() -> None:
    """One command; its exit code becomes that of the process."""
    # Until `main` listens Ctrl-C has nothing to clean up, and must not show a half-done import.
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from ganctl.cli.app import main

    sys.exit(main())


if __name__ == "__main__":
    run()
