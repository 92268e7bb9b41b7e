"""The operations of one step on one device, with their shapes and bytes; no price is here."""
