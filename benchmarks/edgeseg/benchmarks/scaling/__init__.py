"""How time and memory grow: `edgeseg scaling` measures curves and fits their exponents."""
