"""The config as a package, so that ``pkg://rearank.conf`` finds it wherever rearank is installed."""
