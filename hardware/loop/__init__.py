"""Measuring side by side: turns, sessions, what they say, and how sessions are tied."""
