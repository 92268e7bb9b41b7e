"""A serving engine simulated iteration by iteration: its price, its rules, what arrives, what comes of it."""
