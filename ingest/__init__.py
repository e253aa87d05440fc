"""Takes mail in: the transmissions API and SMTP submission."""
