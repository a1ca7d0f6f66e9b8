"""The Hessian diagonal."""
