"""Shell text as a grammar reads it: its tree, made into statements and words."""
