"""What the settings of each target mean, both ways."""
