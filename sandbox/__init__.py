"""The simulated internet: names, mailbox providers, load."""
