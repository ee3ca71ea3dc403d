"""Everything that runs on Ray Serve: the service, its deployment, the cluster config, and the patches of Ray itself."""
