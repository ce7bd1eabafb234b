"""Zero-copy transmit of vhost-net."""
