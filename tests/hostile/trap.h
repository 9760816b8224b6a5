#pragma once

// Ends a call that runs in a trap; otherwise says the words on stderr and ends the process.
void trap_report(const char * words);
