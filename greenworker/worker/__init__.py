"""The Worker blueprint: what is started once and outlives every connection, a file a step."""
