"""Pages and cards that stages leave in their artifacts: one layout, one way to be harmless."""
