"""Running a task's message: admission, execution, outcome, settlement."""
