"""Tables and sentences, whatever they are written to."""
