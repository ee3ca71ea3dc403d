"""What a replica hosts: versions of models, opened, checked and found by name, with their preprocessing and health."""
