"""The test guest's host side: build it, set it, read its heartbeat, have its pages verified."""
