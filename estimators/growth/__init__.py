"""How curvature grows with the gradient: the pairs (L0, L1) of Assumption 5.1."""
