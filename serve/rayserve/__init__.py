"""Everything that runs on Ray.

local_ray       a local Ray that ends with its owner: a service or a scoring job
service         one service on this machine, from start to end
deployment      what runs in each replica
cluster_config  the config file for Ray's own `serve deploy`
ray_patches     every change to Ray's defaults and internals
"""
