"""`python -m bench hostile`: attackers' programs against a daemon with one victim, and how costs grow."""
