"""Makes maps of the sky on request: a coordinator plans the pixels, workers fit them."""
