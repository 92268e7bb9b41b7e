"""Names of models as hubs and commands write them: formats within them, and what a misspelt one meant."""
