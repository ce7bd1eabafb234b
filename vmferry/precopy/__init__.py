"""What pre-copy is: samples, passes, traces, progress, verdict. No clock, no socket, no file."""
