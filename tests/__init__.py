"""Regular, not a namespace: verl and TransferQueue install a package of this name."""
