"""The Consumer blueprint: everything that lives and dies with the broker connection, a file a step."""
