"""Methods: weight generators, baselines and transductive baselines; their names are in ``ltdi.methods.registry``."""
