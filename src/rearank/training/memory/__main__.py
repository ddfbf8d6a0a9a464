"""``python -m rearank.training.memory``."""

from rearank.training.memory.table import main

if __name__ == "__main__":
    main()
