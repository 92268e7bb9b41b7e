"""What is computed: the shapes of a model, its parameters, and how both are read from what people have."""
