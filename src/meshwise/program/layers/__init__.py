"""The operations of a layer, part by part, and of the two ends of a model."""
