"""Where things are kept: artifacts (``artifacts``), leases on them, and the catalog."""
