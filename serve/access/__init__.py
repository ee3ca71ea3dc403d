"""Who may call a service.

auth           who may call what, and where a service may listen: pure decisions
auth_tokens    the tokens file: read, read again when it changes, written by `optimize token`
tls            the TLS files: checked, loaded, and loaded again when they are renewed
watched_files  notices that a file has changed
"""
