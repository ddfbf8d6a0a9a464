"""``pkg://herbarium.conf``: Hydra takes a package for a place of options only where this file is."""
