"""``python -m rearank`` is ``rearank``."""

import sys

from rearank.cli.start import main

if __name__ == "__main__":
    sys.exit(main())
