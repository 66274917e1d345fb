"""Weight generators: one paper, one file; their names are in ``ltdi.methods.registry.METHODS``."""
