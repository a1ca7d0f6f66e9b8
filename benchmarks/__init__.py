"""What each estimator costs and how wrong it is, beside other libraries on the same model and samples.

``python -m benchmarks`` prints the tables and writes them to benchmarks/results. Costs are ratios to one
forward+backward pass over the same samples, measured in the same process; nothing here is asserted.
"""
