"""REPTILE's two loops and the choice of what meta-val decides."""
