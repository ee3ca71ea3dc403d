"""Everything that runs on Ray Serve.

service         one service on this machine, from start to end
deployment      what runs in each replica
cluster_config  the config file for Ray's own `serve deploy`
ray_patches     every change to Ray's defaults and internals
"""
