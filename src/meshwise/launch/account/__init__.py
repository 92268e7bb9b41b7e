"""What a reading rests on: where each value stands, what was asked for, which command was chosen."""
