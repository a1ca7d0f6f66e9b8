"""The task as a function of its parameters: f, its gradients and its products with the Hessian, opened and checked."""
