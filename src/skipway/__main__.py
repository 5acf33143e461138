"""``python -m skipway``."""

import sys

from skipway.cli import main

if __name__ == "__main__":
    sys.exit(main())
