/* The page writer: what a load generator is to a web server, this is to live migration. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"
#include "heartbeat.h"
#include "settings.h"
#include "stamp.h"
#include "writer.h"

static void tell_console(const char *text)
{
	FILE *console = fopen("/dev/console", "we");
	if (!console)
		return; /* a VM without a serial port */
	fprintf(console, "\n%s\n", text);
	fclose(console);
}

int main(void)
{
	static char line[4096], trouble[512];
	struct settings wanted = default_settings;
	FILE *file = fopen("/proc/cmdline", "re");
	if (file && !fgets(line, sizeof line, file))
		*line = 0;
	if (file)
		fclose(file);

	stamp_init();
	heartbeat_start();
	writers_pause();
	if (settings_from_command_line(&wanted, line, trouble, sizeof trouble) ||
	    writers_apply(&wanted, trouble, sizeof trouble)) {
		char text[600];
		snprintf(text, sizeof text, "vmferry-guest error: %s", trouble);
		tell_console(text);
	}
	writers_resume();
	if (!*trouble)
		tell_console("vmferry-guest ready");
	agent_run(trouble);
}
