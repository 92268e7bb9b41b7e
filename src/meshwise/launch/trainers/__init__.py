"""Training scripts that take the options of transformers' trainer, whatever starts them."""
