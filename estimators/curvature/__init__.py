"""Eigenvalues of the Hessian, and its sums, from products."""
