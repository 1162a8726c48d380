"""Where the results of tasks go: the interface in ``base``, one file a store."""
