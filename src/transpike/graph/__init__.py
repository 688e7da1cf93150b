"""One fx graph is the program: trace, normalise, plan, lower. Knows the abstract schedule, no particular one."""
