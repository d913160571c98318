"""What is more than one run or one step: chains of runs, stages on other data, look-ahead gradients, starts."""
