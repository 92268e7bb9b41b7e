"""Model types of ``config.json`` files: one entry each, in the file of its line; one rule reads them all."""
