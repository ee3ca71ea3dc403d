"""What a replica reports: metrics, health signals, memory, and the figures that autoscaling uses."""
