"""Processes of one machine: signals, ports, the reaper of what a job started, and HAProxy."""
