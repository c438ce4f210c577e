"""How much a network loses on photos that are noisy, blurred, snowed on or attacked, and how to lose less."""
