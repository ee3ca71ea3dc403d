"""Who can reach an address; a service and its callers use the same rule."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address; a name other than `localhost` may stand for any address."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
