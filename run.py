"""``python run.py ...`` in a checkout is ``rearank ...``: see ``rearank.cli``."""

import sys

from rearank.cli.start import main

if __name__ == "__main__":  # Hydra's shell completion of "python run.py" looks here for the word @hydra.main
    sys.exit(main())
