"""Weight generators, one paper per file; their names in params.yaml are in ``ltdi.methods.registry``."""
