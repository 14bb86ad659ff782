"""How good a version of the model is, in numbers, plots and words."""
