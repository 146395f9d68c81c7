"""What work is: operator graphs, configurations, traces, request patterns."""
