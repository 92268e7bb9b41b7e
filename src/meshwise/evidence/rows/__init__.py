"""A row's cells as the options of the command line have them, and what is legal where it says nothing."""
