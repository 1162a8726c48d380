"""Redis: kombu's keys and messages, so that greenworker and Celery share queues, with leases that are renewed."""
