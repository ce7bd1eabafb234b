/* The numbered heartbeat on the port vmferry.heartbeat. */
#pragma once

void heartbeat_start(void);
