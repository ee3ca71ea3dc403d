"""What a replica reports about itself.

metrics            metrics for Prometheus
memory             its memory, compared with what its models were measured to need
health_signals     signs that a model is sick: pure
health_check       confirms a sign before the replica is replaced
autoscaling_stats  how long its queues will take, and how busy it is
autoscaling        how many replicas the service needs: a policy for Ray Serve's controller
"""
