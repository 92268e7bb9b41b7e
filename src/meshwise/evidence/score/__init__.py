"""What the predictions of a table are worth: errors, intervals, decisions."""
