/* The agent on the port vmferry.agent: a JSON object a line in, one a line out. */
#pragma once

/* Answer requests for ever. `trouble` is what went wrong at the start, or empty. */
void agent_run(const char *trouble);
