/* A virtio-serial port by its name. */
#pragma once

/* Open the port, waiting for ever until it is there: its name comes after its device. */
int port_open(const char *name, int flags);
