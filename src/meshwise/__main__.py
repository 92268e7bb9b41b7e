from meshwise.cli import entry

entry()
