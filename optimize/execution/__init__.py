"""How a stage of work is run: in a process of its own, with limits, remembered, and shown while it runs."""
