"""A transformers model turned into its tensor-parallel form."""
