"""The command line: a file a command, each with SUMMARY, configure(parser) and run(namespace)."""
