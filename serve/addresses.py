"""Who reaches an address: decided alike by a service and by its callers."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address; a name other than `localhost` may mean any."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
