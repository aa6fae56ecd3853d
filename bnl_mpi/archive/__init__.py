"""Many data sets in one command: found, matched with rules, dealt to ranks or processes, and remembered."""
