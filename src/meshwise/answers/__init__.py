"""What each command answers: its JSON (schema 1) and its page."""
