"""How a checkpoint stores its weights: methods, and the modules that their patterns mean."""
