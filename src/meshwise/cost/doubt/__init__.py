"""How far a prediction may be off: what is new in a question, what published runs stand near it."""
