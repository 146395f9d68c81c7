"""How work is placed: a graph and a system make a program."""
