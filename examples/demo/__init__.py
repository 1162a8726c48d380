"""The demo that scripts/demo runs: tasks that fetch slow pages, the server of those pages, and the driver."""
