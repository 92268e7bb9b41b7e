"""What makes a layout legal: one list (:mod:`~meshwise.layouts.rules.rulebook`), by who imposes each rule."""
