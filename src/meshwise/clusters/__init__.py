"""On what: devices and the levels of fabric that join them, and the names that people and clouds give them."""
